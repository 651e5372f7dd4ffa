from __future__ import annotations

import pytest
import torch

from flwr_decaf.rules.truncated_svd import truncated_svd


def draw(layers, d_out, inner, d_in, seed=0):
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(layers, d_out, inner, generator=generator, dtype=torch.float64)
    right = torch.randn(layers, inner, d_in, generator=generator, dtype=torch.float64)
    return left, right


@pytest.mark.parametrize(("d_out", "inner", "d_in"), [(20, 6, 30), (30, 6, 20), (5, 12, 9)])
def test_compact_and_dense_agree_with_torch(d_out, inner, d_in):
    left, right = draw(3, d_out, inner, d_in)
    u, s, vh = truncated_svd(left, right, rank=4)
    p = left @ right
    torch.testing.assert_close(s, torch.linalg.svdvals(p)[:, :4])
    torch.testing.assert_close(u.mT @ u, torch.eye(4, dtype=torch.float64).expand(3, 4, 4))
    torch.testing.assert_close(u.mT @ p, s.unsqueeze(-1) * vh)


def test_missing_components_are_padded_with_zeros():
    left, right = draw(1, 3, 2, 4)
    u, s, vh = truncated_svd(left, right, rank=5)
    assert u.shape == (1, 3, 5)
    assert vh.shape == (1, 5, 4)
    assert s[0, 2:].tolist() == [0.0, 0.0, 0.0]


def test_signs_do_not_depend_on_the_order_of_the_sum():
    left, right = draw(2, 20, 6, 30)
    order = [3, 1, 5, 0, 2, 4]
    first = truncated_svd(left, right, rank=4)
    second = truncated_svd(left[..., order], right[:, order], rank=4)
    for x, y in zip(first, second, strict=True):
        torch.testing.assert_close(x, y)


def test_with_equal_singular_values_nodes_agree_on_the_product():
    """The factors may then depend on the order of the sum; the product does not."""
    left = torch.eye(4, dtype=torch.float64)[:, :3].unsqueeze(0)
    right = torch.linalg.qr(draw(1, 5, 3, 3)[0])[0].mT  # three orthonormal rows: s = 1, 1, 1
    order = [2, 0, 1]
    first = truncated_svd(left, right, rank=3)
    second = truncated_svd(left[..., order], right[:, order], rank=3)
    torch.testing.assert_close(first[1], torch.ones(1, 3, dtype=torch.float64))
    for u, s, vh in (first, second):
        torch.testing.assert_close(u * s.unsqueeze(-2) @ vh, left @ right)


class TestSinglePrecision:
    """Gram matrices in fp64 are used for fp32; the fp64 path is compared with torch above."""

    @pytest.mark.parametrize(("d_out", "inner", "d_in"), [(20, 6, 30), (90, 40, 50), (7, 1, 5)])
    def test_the_error_is_that_of_rounding_the_result(self, d_out, inner, d_in):
        left, right = draw(3, d_out, inner, d_in)
        u, s, vh = truncated_svd(left.float(), right.float(), rank=1)
        exact = torch.linalg.svdvals(left.float().double() @ right.float().double())[:, :1]
        torch.testing.assert_close(s.double(), exact, rtol=2e-7, atol=0)
        torch.testing.assert_close(u.mT @ u, torch.ones(3, 1, 1))
        torch.testing.assert_close(vh @ vh.mT, torch.ones(3, 1, 1))

    def test_small_singular_values_are_accurate(self):
        values = torch.logspace(0, -4, 5, dtype=torch.float64)
        q_left, q_right = (torch.linalg.qr(draw(1, 40, 5, 5, seed)[0])[0] for seed in (1, 2))
        # The scale of a component may be in either factor.
        for share in (0.0, 0.5, 1.0):
            left, right = q_left * values**share, (q_right * values ** (1 - share)).mT
            u, s, vh = truncated_svd(left.float(), right.float(), rank=5)
            torch.testing.assert_close(s[0].double(), values, rtol=1e-5, atol=0)
            torch.testing.assert_close(u.mT @ u, torch.eye(5).unsqueeze(0), atol=1e-5, rtol=0)
            torch.testing.assert_close(vh @ vh.mT, torch.eye(5).unsqueeze(0), atol=1e-5, rtol=0)

    def test_a_product_of_lower_rank_has_zeros_elsewhere(self):
        left, right = (x.float() for x in draw(2, 20, 2, 30))
        twice = torch.cat([left, left], dim=-1), torch.cat([right, right], dim=-2)
        u, s, vh = truncated_svd(*twice, rank=4)
        torch.testing.assert_close(s[:, :2], 2 * torch.linalg.svdvals(left @ right)[:, :2])
        assert not s[:, 2:].any()
        assert not u[..., 2:].any()
        assert not vh[:, 2:].any()
        torch.testing.assert_close(u * s.unsqueeze(-2) @ vh, 2 * left @ right)

    @pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-15, 1e15])
    def test_extreme_scales_stay_finite(self, scale):
        left, right = (x.float() for x in draw(1, 20, 6, 30))
        u, s, vh = truncated_svd(scale * left, right, rank=6)
        assert all(x.isfinite().all() for x in (u, s, vh))
        torch.testing.assert_close(
            s, scale * truncated_svd(left, right, rank=6)[1], rtol=1e-5, atol=0
        )
