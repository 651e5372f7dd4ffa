"""DLoRA-FA, with and without local heads, in addition to what test_conformance.py checks."""

from __future__ import annotations

import torch

from flwr_decaf.lora import factor_of
from tests.strategies.conformance import equal, initial, plain


def test_a_frozen_a_stays_as_it_was():
    _, held, *_ = plain("dlora-fa")
    for state in held.values():
        assert equal({k: x for k, x in initial().items() if "lora_A" in k}, state)


def test_a_local_head_trains_as_if_alone_and_does_not_affect_the_factors():
    _, held, *_ = plain("conlora")
    _, mixed, *_ = plain("dlora-fa")
    _, alone, *_ = plain("local-only")
    for node, state in held.items():
        for name, x in state.items():
            assert torch.equal(x, (mixed if factor_of(name) else alone)[node][name])
        assert not equal(state, mixed[node])
