"""Byzantine nodes and robust mixing on the relay's side."""

from __future__ import annotations

import numpy as np

from flwr_decaf.strategies import DLoRA
from flwr_decaf.strategies.relay.attacks import byzantine_among
from flwr_decaf.topology.mixing_matrix import build_mixing_matrix
from tests.apps.pure_mixing import app
from tests.local_grid import LocalGrid
from tests.strategies.pure_runs import held_after, starts


def test_the_neighbours_of_a_byzantine_node_get_its_opposite_and_it_keeps_its_own():
    n, w = 4, build_mixing_matrix("ring", 4)
    strategy = DLoRA("ring", evaluate_every=1, sign_flipping=1, seed=5)
    grid = LocalGrid(app, n)
    held = held_after(strategy, n, rounds=1, grid=grid)
    (byzantine,) = byzantine_among(n, 1, seed=5)
    said = np.array(starts(n), dtype=float)
    said[byzantine] *= -1
    expected = w @ said
    expected[byzantine] += 2 * w[byzantine, byzantine] * starts(n)[byzantine]  # it believes itself
    np.testing.assert_allclose(held, expected, atol=1e-14)
    evaluated = [m for m in grid.sent if m.metadata.message_type == "evaluate"]
    assert len([m for m in evaluated if "config" in m.content]) == n - 1


def test_nodes_with_too_few_neighbours_to_outvote_byzantine_ones_keep_their_own(caplog):
    n = 4
    strategy = DLoRA("star", evaluate_every=0, robust="clipping", byzantine=2)
    held = held_after(strategy, n, rounds=1)
    np.testing.assert_allclose(held[1:], starts(n)[1:], atol=0)
    assert not np.allclose(held[0], starts(n)[0])
    assert "nodes with fewer than 3 neighbours in a round do not mix" in caplog.text
