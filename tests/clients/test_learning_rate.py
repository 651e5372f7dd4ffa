from __future__ import annotations

import pytest

from flwr_decaf.registries import LEARNING_RATES


@pytest.mark.parametrize("name", LEARNING_RATES)
@pytest.mark.parametrize("rounds", [1, 2, 3, 50])
def test_every_one_starts_at_1_never_rises_and_never_stops_training(name, rounds):
    shares = [LEARNING_RATES[name](t, rounds) for t in range(1, rounds + 1)]
    assert shares[0] == 1
    assert shares == sorted(shares, reverse=True)
    assert min(shares) > 0


def test_cosine_by_hand():
    found = [LEARNING_RATES["cosine"](t, 4) for t in (1, 2, 3, 4)]
    assert found == pytest.approx([1, 0.853553, 0.5, 0.146447], abs=1e-6)
