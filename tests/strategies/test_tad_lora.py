"""TAD-LoRA and RoLoRA, in addition to what test_conformance.py checks for all."""

from __future__ import annotations

import pytest
import torch

from flwr_decaf.lora import factor_of
from flwr_decaf.strategies import STRATEGIES
from flwr_decaf.topology.mixing_matrix import build_mixing_matrix
from tests.strategies.conformance import initial, run


def test_the_frozen_factor_changes_only_by_mixing():  # invariant 12
    _, held, _ = run("tad-lora", rounds=2)  # both rounds train A: B stays what all began with
    for state in held.values():
        for name, x in initial().items():
            still = torch.allclose(state[name], x)
            assert still == ("lora_B" in name)
    _, later, _ = run("tad-lora", rounds=3)  # the third trains B; A is mixed once more, no more
    w = build_mixing_matrix("ring", 4)
    for name in (name for name in initial() if "lora_A" in name):
        before = torch.stack([held[node][name] for node in range(4)])
        mixed = torch.einsum("ij,jab->iab", torch.from_numpy(w), before)
        for node in range(4):
            torch.testing.assert_close(later[node][name], mixed[node])


def test_rolora_mixes_the_factor_that_trained_and_leaves_the_other():
    _, held, _ = run("rolora")
    w = torch.from_numpy(build_mixing_matrix("ring", 4))
    for name, start in initial().items():
        xs = torch.stack([start] * 4)
        for t, trains in ((1, "A"), (2, "B"), (3, "A")):
            if (factor_of(name) or trains) == trains:  # the head always trains and is always mixed
                moves = [0.1 * (node + 1) * torch.sin(xs[node] + t) for node in range(4)]
                xs = torch.tensordot(w, xs + torch.stack(moves), dims=1)
        for node in range(4):
            torch.testing.assert_close(held[node][name], xs[node])


@pytest.mark.parametrize("length", [0, 2.5, True, "all"])
def test_an_invalid_phase_length_is_refused(length):
    with pytest.raises(ValueError, match="phase_length must be a whole number >= 1"):
        STRATEGIES["tad-lora"]("ring", phase_length=length)


def test_the_derived_phase_length_follows_the_network():
    strategy = STRATEGIES["tad-lora"]("ring")
    lengths = []
    for n in (4, 64):  # lambda2 = 1/3 and 0.9968: 1 / sqrt(1 - lambda2^2) = 1.06 and 12.5
        strategy.network_on(n)
        lengths.append([strategy.schedule(t).trained for t in range(1, 30)].index("B"))
    assert lengths == [1, 12]
