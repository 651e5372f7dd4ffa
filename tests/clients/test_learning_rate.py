from __future__ import annotations

import pytest
import torch

from flwr_decaf.clients.learning_rate import LEARNING_RATES


def rates(name, rounds, steps, rate=2e-4, warmup=0):
    """List the rates of all steps, one list per round, each with a new optimizer."""
    found = []
    for server_round in range(1, rounds + 1):
        parameter = torch.nn.Parameter(torch.ones(2))
        optimizer = torch.optim.AdamW([parameter], lr=rate)
        scheduler = LEARNING_RATES[name](
            optimizer, server_round=server_round, rounds=rounds, steps=steps, warmup=warmup
        )
        found.append([])
        for _ in range(steps):
            found[-1].append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
    return found


@pytest.mark.parametrize("name", LEARNING_RATES)
@pytest.mark.parametrize("rounds", [1, 2, 3, 50])
@pytest.mark.parametrize("steps", [1, 3])
def test_every_schedule_starts_at_the_rate_and_never_increases_in_a_round(name, rounds, steps):
    found = rates(name, rounds, steps)
    assert found[0][0] == pytest.approx(2e-4)
    assert all(of_round == sorted(of_round, reverse=True) for of_round in found)
    assert min(map(min, found)) > 0


def test_cosine_by_hand():
    found = rates("cosine", rounds=4, steps=2, rate=2.0)
    expected = [2, 1.707107, 1, 0.292893]
    assert found == [pytest.approx([rate] * 2, abs=1e-6) for rate in expected]


def test_cosine_per_round_by_hand():
    found = rates("cosine-per-round", rounds=3, steps=4)
    # 1e-6 + 199e-6 times (1 + cos(0, 45, 90, 135 degrees)) / 2, the same in every round
    by_hand = [200e-6, 170.857e-6, 100.5e-6, 30.143e-6]
    assert found == [pytest.approx(by_hand, abs=1e-9)] * 3


def test_a_rate_below_the_lowest_is_kept():
    assert rates("cosine-per-round", rounds=1, steps=3, rate=1e-7) == [pytest.approx([1e-7] * 3)]


def flat(name, **options):
    return [rate for of_round in rates(name, rate=1.0, **options) for rate in of_round]


def test_schedules_of_the_whole_run_by_hand():
    run = {"rounds": 3, "steps": 2, "warmup": 2}
    assert flat("linear", **run) == pytest.approx([0, 0.5, 1, 0.75, 0.5, 0.25])
    assert flat("constant-with-warmup", **run) == pytest.approx([0, 0.5, 1, 1, 1, 1])
    # (1 + cos(0, 45, 90, 135 degrees)) / 2
    by_hand = [0, 0.5, 1, 0.853553, 0.5, 0.146447]
    assert flat("cosine-with-warmup", **run) == pytest.approx(by_hand, abs=1e-6)
    by_hand = [0, 0.5, 1, (2 / 3) ** 0.5, 0.5**0.5, 0.4**0.5]  # sqrt(2 / step)
    assert flat("inverse-sqrt", **run) == pytest.approx(by_hand)
