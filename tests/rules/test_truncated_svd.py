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
