from __future__ import annotations

import pickle

import pytest
import torch
from flwr.app import Array, ArrayRecord, RecordDict

from flwr_decaf.messages.mail import Mail, put_mail, take_mail
from flwr_decaf.messages.packing import pack, pack_record, unpack, unpack_record
from tests.states import lora_state


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_state_survives_packing_to_the_bit_and_in_order(dtype):
    state = dict(reversed(lora_state(0, dtype=dtype).items()))
    state["count"] = torch.tensor(3)
    state["transposed"] = torch.arange(6, dtype=dtype).reshape(2, 3).T
    back = unpack(pack(state))
    assert list(back) == list(state)
    assert all(torch.equal(back[name], state[name]) for name in state)
    assert all(back[name].dtype == state[name].dtype for name in state)


def test_equal_states_pack_to_equal_bytes():
    assert pack(lora_state(0)).data == pack(lora_state(0)).data
    assert pack(lora_state(0)).data != pack(lora_state(1)).data


def test_a_post_is_one_array():
    assert len(pack_record(lora_state(0))) == 1
    back = unpack_record(pack_record(lora_state(0)))
    assert all(torch.equal(x, back[name]) for name, x in lora_state(0).items())


@pytest.mark.parametrize("data", [b"", b"\xff" * 40, pack(lora_state(0)).data[:-3]])
def test_damaged_bytes_are_refused(data):
    with pytest.raises(ValueError, match="cannot be read"):
        unpack(Array(dtype="uint8", shape=(len(data),), stype="safetensors", data=data))


def test_a_pickle_is_not_read():
    data = pickle.dumps({"x": 1})
    for stype in ("safetensors", "pickle"):
        with pytest.raises(ValueError, match="packed state"):
            unpack(Array(dtype="uint8", shape=(len(data),), stype=stype, data=data))


def test_mail_goes_in_and_comes_out_and_leaves_the_rest():
    posts = {4: pack(lora_state(4)), 1: pack(lora_state(1))}
    mail = Mail("average", "AB", "B", arrays_key="model", weights=(0.5, 0.2, 0.3), posts=posts)
    content = RecordDict({"model": ArrayRecord()})
    put_mail(content, mail)
    assert take_mail(content) == mail
    assert list(content) == ["model"]
    assert take_mail(content) is None
