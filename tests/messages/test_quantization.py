from __future__ import annotations

import pytest
import torch

from flwr_decaf.lora import size_in_bytes
from flwr_decaf.messages.inspection import read_posts
from flwr_decaf.messages.packing import pack
from flwr_decaf.messages.quantization import SCALES, dequantize, quantize
from tests.states import lora_state

A, B = "q.lora_A.weight", "q.lora_B.weight"


def rounded(state, dtype="int8", seed=0):
    return dequantize(quantize(state, dtype, seed), dtype, like=state)


def test_a_row_worked_out_by_hand():
    # s = 254 / 127 = 2: 6 is 3 steps, -254 is -127 steps, 0 none; 1 is half a step.
    state = {"x": torch.tensor([[6.0, -254.0, 0.0, 1.0]])}
    posted = quantize(state, "int8", seed=0)
    assert posted["x"].dtype == torch.int8
    assert posted["x"][0, :3].tolist() == [3, -127, 0]
    assert posted["x"][0, 3] in (0, 1)
    assert posted[SCALES].tolist() == [2.0]
    half = 2.0 * float(posted["x"][0, 3])
    back = dequantize(posted, "int8", like=state)
    assert back["x"].tolist() == [[6.0, -254.0, 0.0, half]]


def test_rounding_is_unbiased():
    x = torch.linspace(-1, 1, 64).reshape(2, 32) ** 3
    draws = 4000
    total = sum(rounded({"x": x}, seed=seed)["x"] for seed in range(draws))
    step = (x.abs().amax(dim=1, keepdim=True) / 127).expand_as(x)
    # A rounding has a standard deviation of at most half a step; 5 of the mean's.
    assert bool(((total / draws - x).abs() <= 5 * step / 2 / draws**0.5).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_an_error_is_below_one_step_of_its_row(dtype):
    state = lora_state(3, dtype=dtype)
    for name, x in rounded(state).items():
        assert (x.dtype, x.shape) == (dtype, state[name].shape)
        wide = state[name].double()
        along = 1 if wide.shape[0] <= wide.shape[1] else 0  # rows lie along the longer side
        step = wide.abs().amax(dim=along, keepdim=True) / 127
        precision = 4 * torch.finfo(dtype).eps * wide.abs()
        assert bool(((x.double() - wide).abs() <= step * 1.0001 + precision).all())


def test_b_has_a_scale_for_each_component():
    state = {A: torch.rand(4, 32), B: torch.rand(48, 4)}
    state[B] *= torch.tensor([1.0, 1e-3, 1.0, 1e3])
    posted = quantize(state, "int8", seed=0)
    assert posted[SCALES].shape == (4 + 4,)
    for column, back in zip(state[B].T, rounded(state)[B].T, strict=True):
        assert float((back - column).abs().max()) <= float(column.max()) / 127 * 1.0001


@pytest.mark.parametrize("shape", [(7, 1), (1, 7), (3, 2, 2, 2), (2, 3, 5), (9, 2, 2)])
def test_all_shapes_come_back(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    back = rounded({"x": x})["x"]
    assert back.shape == shape
    torch.testing.assert_close(back, x, atol=float(x.abs().max()) / 127, rtol=0)
    counts = {(7, 1): 1, (1, 7): 1, (3, 2, 2, 2): 3, (2, 3, 5): 2, (9, 2, 2): 4}
    assert quantize({"x": x}, "int8", 0)[SCALES].shape == (counts[shape],)


def test_zero_rows_and_tiny_rows_stay_finite():
    x = torch.tensor([[0.0, 0, 0, 0], [1e-45, 0, 0, 0], [1.0, 2, 3, 4]])
    back = rounded({"x": x})["x"]
    assert back[0].tolist() == [0, 0, 0, 0]
    assert float((back[1] - x[1]).abs().max()) <= 1e-44
    assert torch.isfinite(back).all()


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_tensors_that_would_not_shrink_are_posted_unchanged(dtype):
    state = {
        "batches": torch.tensor(5),
        "ids": torch.arange(9),
        "temperature": torch.tensor(0.123456789),
        "one": torch.tensor([0.123456789]),
        "none": torch.zeros(0, 4),
        "half": torch.rand(2, 2).half(),  # of int8, 4 bytes and two scales of 4
    }
    kept = ["batches", "ids", "half"] + ["temperature", "one", "none"] * (dtype == "int8")
    posted = quantize(state, dtype, seed=0)
    assert all(posted[name] is state[name] for name in kept)
    assert SCALES not in posted


def test_bf16_rounds_to_the_nearest_and_fp32_does_not_round():
    state = {"x": torch.tensor([1 + 2**-9, 1 + 2**-7], dtype=torch.float64)}
    assert quantize(state, "fp32", seed=0) is state
    assert rounded(state, "fp32") is state
    assert rounded(state, "bf16")["x"].tolist() == [1.0, 1 + 2**-7]
    assert rounded(state, "bf16")["x"].dtype == torch.float64


def test_the_same_seed_rounds_to_the_same_bits_and_tensors_round_independently():
    x = torch.rand(4, 64)
    state = {"x": x, "y": x}
    first, again, other = (quantize(state, "int8", seed) for seed in (1, 1, 2))
    assert torch.equal(first["x"], again["x"])
    assert not torch.equal(first["x"], other["x"])
    assert not torch.equal(first["x"], first["y"])
    alone = quantize({"y": x}, "int8", 1)
    assert torch.equal(first["y"], alone["y"])


def test_bytes_are_values_and_scales():
    state = {A: torch.rand(4, 32), B: torch.rand(48, 4), "batches": torch.tensor(5)}
    posted = quantize(state, "int8", seed=0)
    assert size_in_bytes(posted) == 4 * 32 + 48 * 4 + 4 * (4 + 4) + 8
    assert len(pack(posted).data) < size_in_bytes(posted) + 600  # names, once, and their order


class TestDamagedPosts:
    like = lora_state(1, dtype=torch.float32)
    first = next(iter(like))

    def cause(self, change):
        posted = quantize(lora_state(2, dtype=torch.float32), "int8", seed=0)
        states, causes = read_posts({4: pack({**posted, **change(posted)})}, self.like, "int8")
        assert not states
        return causes[4]

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_scales_that_are_not_finite(self, value):
        assert "must be finite" in self.cause(lambda p: {SCALES: p[SCALES] * value})

    @pytest.mark.parametrize(
        "scales", [torch.ones(3), torch.ones(0), torch.ones(2, 11), torch.ones(22).double()]
    )
    def test_scales_of_another_form(self, scales):
        assert "one scale in fp32 for each of its 22 rows" in self.cause(lambda p: {SCALES: scales})

    def test_values_of_another_shape(self):
        assert "must be (3, 9)" in self.cause(lambda p: {self.first: p[self.first].T.contiguous()})

    def test_values_that_are_not_quantized(self):
        wrong = torch.zeros(3, 9, dtype=torch.int16)
        assert "torch.int16" in self.cause(lambda p: {self.first: wrong})

    def test_states_that_cannot_be_rounded(self):
        for value in (float("nan"), float("inf"), -float("inf")):
            state = {name: x.clone() for name, x in self.like.items()}
            state[self.first][1, 2] = value
            _, causes = read_posts({4: pack(quantize(state, "int8", seed=0))}, self.like, "int8")
            assert "must be finite" in causes[4]

    def test_a_post_of_the_wrong_dtype(self):
        for posted, agreed in (("fp32", "int8"), ("int8", "fp32"), ("bf16", "fp32")):
            post = pack(quantize(self.like, posted, seed=0))
            assert list(read_posts({4: post}, self.like, agreed)[1]) == [4]


def test_vectors_keep_their_bits_in_int8():
    # In steps of 3e3 / 127, the first variance could become 0, and then negative in a mix.
    state = {"running_var": torch.tensor([1e-3, 3e3, 2.0, 5.0]), "weight": torch.rand(4, 32)}
    posted = quantize(state, "int8", seed=0)
    assert posted["running_var"] is state["running_var"]
    assert posted["weight"].dtype == torch.int8
    assert torch.equal(rounded(state)["running_var"], state["running_var"])
