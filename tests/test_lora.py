from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from torch import nn

from flwr_decaf.lora import Pair, factor_of, pairs, select, size_in_bytes
from tests.states import lora_state


def test_pairs_of_a_real_peft_model():
    model = nn.ModuleDict({"lin": nn.Linear(4, 6), "conv": nn.Conv2d(3, 5, 3),
                           "emb": nn.Embedding(11, 4), "head": nn.Linear(6, 2)})  # fmt: skip
    config = LoraConfig(r=2, target_modules=["lin", "conv", "emb"], modules_to_save=["head"])
    names = list(get_peft_model_state_dict(get_peft_model(model, config)))
    found = pairs(names)
    assert len(found) == 3
    assert all(pair.b == pair.a.replace("_A", "_B") and pair.b in names for pair in found)
    dense = [name for name in names if factor_of(name) is None]
    assert sorted(name.rsplit(".", 1)[-1] for name in dense) == ["bias", "weight"]


def test_a_layer_named_like_a_factor_is_not_one():
    assert factor_of("lora_Abc.weight") is None
    assert factor_of("blocks.A.weight") is None
    assert factor_of("x.lora_A.default.weight") == "A"


def test_half_a_pair_is_refused():
    with pytest.raises(ValueError, match="y.lora_B.weight has no partner"):
        pairs(["x.lora_A.weight", "x.lora_B.weight", "y.lora_B.weight"])
    assert pairs(["x.lora_B.weight", "x.lora_A.weight"]) == [
        Pair("x.lora_A.weight", "x.lora_B.weight")
    ]


def test_select_keeps_dense_tensors_and_order():
    state = lora_state(0)
    assert list(select(state, "AB")) == list(state)
    assert list(select(state, "B")) == [name for name in state if "lora_A" not in name]
    assert "model.classifier.weight" in select(state, "A")


@pytest.mark.parametrize("factors", ["AB", "A", "B"])
def test_select_can_leave_dense_tensors_out(factors):
    found = select(lora_state(0), factors, dense=False)
    assert found.keys() == select(lora_state(0, head=False), factors).keys()


@pytest.mark.parametrize(("dtype", "width"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_bytes_are_rank_times_both_sides(dtype, width):  # invariant 11
    state = lora_state(0, rank=3, dtype=dtype, head=False)
    per_layer = 3 * (5 + 9) + 3 * (5 + 9) + 3 * (12 + 7)
    assert size_in_bytes(state) == per_layer * width
    assert size_in_bytes(select(state, "B")) == 3 * (5 + 5 + 12) * width
