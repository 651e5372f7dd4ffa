from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from flwr_decaf.clients.mixing import mix
from flwr_decaf.messages.mail import Mail
from flwr_decaf.messages.packing import pack
from tests.clients.letters import OTHER, OWN, damaged, mail
from tests.states import lora_state


def test_without_neighbours_the_node_keeps_its_own_to_the_bit():
    half = lora_state(1, dtype=torch.float16)
    held, metrics, _ = mix(half, Mail("factorize", "AB", "AB"))
    assert all(torch.equal(held[name], x) for name, x in half.items())
    assert metrics["mixing-neighbours"] == 0


@pytest.mark.parametrize("kind", ["shape", "dtype", "keys", "NaN", "infinity", "norm"])
def test_a_post_that_cannot_be_used_is_left_out_and_named(kind):
    held, metrics, refused = mix(OWN, mail(neighbour=damaged(kind)))
    assert all(torch.equal(held[name], x) for name, x in OWN.items())  # all weight is its own
    assert (metrics["mixing-neighbours"], metrics["mixing-refused"]) == (0, 1)
    assert list(refused) == [4]
    assert {"keys": "same tensors", "NaN": "NaN or inf", "infinity": "NaN or inf"}.get(
        kind, "must be" if kind != "norm" else "factor of 100"
    ) in refused[4]


def test_the_weight_of_a_refused_post_goes_to_the_own():
    third = (1 / 3, 1 / 3, 1 / 3)
    posts = {4: pack(OTHER), 7: pack(damaged("NaN"))}
    held, _, refused = mix(OWN, Mail("average", "AB", "AB", weights=third, posts=posts))
    assert list(refused) == [7]
    for name, x in OWN.items():
        torch.testing.assert_close(held[name], x * 2 / 3 + OTHER[name] / 3)


def test_bytes_that_are_not_a_post_are_refused():
    posts = {4: replace(pack(OTHER), data=b"no safetensors at all")}
    _, _, refused = mix(OWN, Mail("average", "AB", "AB", weights=(0.5, 0.5), posts=posts))
    assert "cannot be read" in refused[4]


def test_the_mix_does_not_depend_on_the_number_of_threads():
    # Large enough for PyTorch to share the work out, which changes the bits.
    states = [lora_state(k, 8, {"up": (3072, 768)}, torch.float32) for k in range(3)]
    own, posts = states[0], {k: pack(state) for k, state in enumerate(states) if k}
    letter = Mail("factorize", "AB", "AB", weights=(1 / 3, 1 / 3, 1 / 3), posts=posts)
    before = torch.get_num_threads()
    mixed = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        mixed.append(mix(own, letter)[0])
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert all(torch.equal(mixed[0][name], mixed[1][name]) for name in own)


@pytest.mark.parametrize("rule", ["average", "factorize"])
def test_a_local_head_is_left_out_of_the_mix(rule):
    local, _, _ = mix(OWN, mail(rule=rule, local_head=True))
    mixed, _, _ = mix(OWN, mail(rule=rule))
    for name, x in local.items():
        expected = OWN if name == "model.classifier.weight" else mixed
        assert torch.equal(x, expected[name])
    assert not torch.equal(mixed["model.classifier.weight"], OWN["model.classifier.weight"])
