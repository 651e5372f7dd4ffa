from __future__ import annotations

from flwr_decaf.strategies import STRATEGIES


def test_dec_lora_weighs_by_the_laplacian():  # invariant 13
    strategy = STRATEGIES["dec-lora"]("ring")
    assert strategy.graph.weights == "laplacian"
    assert STRATEGIES["dec-lora"]("ring", weights="uniform").graph.weights == "uniform"
