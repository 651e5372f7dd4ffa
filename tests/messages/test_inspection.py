"""Posts of other ranks than the receiver's, as DeCAF mixes them; more is in test_properties.py."""

from __future__ import annotations

import pytest
import torch

from flwr_decaf.messages.inspection import read_posts
from flwr_decaf.messages.packing import pack
from flwr_decaf.messages.quantization import quantize
from tests.states import lora_state

OWN = lora_state(0)  # rank 3; q is of shape (5, 9)
A, B = "model.q.lora_A.weight", "model.q.lora_B.weight"
BAD = {
    "one dimension": {B: torch.zeros(5)},
    "no dimension": {A: torch.zeros(())},
    "rank 0": {A: torch.zeros(0, 9), B: torch.zeros(5, 0)},
    "more than the layer": {A: torch.zeros(6, 9), B: torch.zeros(5, 6)},
    "two ranks": {A: torch.zeros(2, 9)},
    "another width": {A: torch.zeros(3, 8)},
    "three dimensions": {A: torch.zeros(3, 9, 1)},
}


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("rank", [1, 2, 3, 5])
def test_posts_of_any_rank_are_read(rank, dtype):
    sent = lora_state(1, rank)
    states, causes = read_posts({4: pack(quantize(sent, dtype, 0))}, OWN, dtype, "any")
    assert causes == {}
    for name, x in states[4].items():
        torch.testing.assert_close(x, sent[name], atol=0.05, rtol=0.01)
    refused = read_posts({4: pack(quantize(sent, dtype, 0))}, OWN, dtype)[1]
    assert bool(refused) == (rank != 3)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("kind", BAD)
def test_posts_that_no_rank_explains_are_refused(kind, dtype):
    for cast in (torch.float64, torch.bfloat16, torch.int8):
        post = quantize(OWN, dtype, 0) | {name: x.to(cast) for name, x in BAD[kind].items()}
        states, causes = read_posts({4: pack(post)}, OWN, dtype, ranks="any")
        assert (states, list(causes)) == ({}, [4])
