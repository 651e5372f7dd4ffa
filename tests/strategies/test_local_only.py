from __future__ import annotations

from tests.strategies.conformance import equal, plain


def test_nodes_of_local_only_train_as_in_a_network_of_one():
    _, held, *_ = plain("local-only", n=3)
    _, alone, *_ = plain("local-only", n=1)
    assert equal(held[0], alone[0])
