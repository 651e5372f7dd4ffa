"""What is refused before the first round."""

from __future__ import annotations

import networkx as nx
import pytest
import torch
from flwr.app import ArrayRecord
from flwr.clientapp import ClientApp

from flwr_decaf.clients import peer_mixing
from flwr_decaf.strategies import STRATEGIES, DeCAF, DLoRA
from tests.apps.pure_mixing import app
from tests.local_grid import LocalGrid
from tests.strategies.conformance import KINDS, MODS, train
from tests.strategies.pure_runs import START, held_after


def test_what_the_rule_cannot_mix_is_refused_before_the_first_round():
    grid = LocalGrid(app, 3)
    with pytest.raises(ValueError, match="use DLoRA"):
        DeCAF("ring").start(grid, ArrayRecord(START), num_rounds=1)
    with pytest.raises(ValueError, match="must be for n=3 nodes, 0 to n-1; got one for 4"):
        DLoRA(nx.path_graph(4)).start(grid, ArrayRecord(START), num_rounds=1)


def test_a_topology_without_a_family_is_refused_at_once():
    with pytest.raises(ValueError, match=r"topology.name must be one of complete.*got 'rnig'"):
        DLoRA("rnig")


@pytest.mark.parametrize("name", ["dlora", "dimat"])
def test_a_local_head_is_refused_where_there_are_no_factors(name):
    app = ClientApp(mods=[MODS.get(name, peer_mixing)])
    app.train()(train)
    strategy = KINDS[name]("ring", local_head=True)
    with pytest.raises(ValueError, match="local_head must be False for arrays without LoRA"):
        strategy.start(LocalGrid(app, 3), ArrayRecord({"w": torch.zeros(2)}))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"robust": "clipping", "byzantine": 2},
            "byzantine must leave .* got 2, with which clipping need",
        ),
        (
            {"robust": "trimmed-mean", "byzantine": 2},
            "needs 4 neighbours, and nodes have at most 2",
        ),
        ({"sign_flipping": 4}, "sign_flipping must leave honest nodes; got 4 of 4"),
    ],
)
def test_a_graph_on_which_no_node_could_mix_stops_the_run(arguments, message):
    with pytest.raises(ValueError, match=message):
        held_after(DLoRA("ring", **arguments), 4, rounds=1)


@pytest.mark.parametrize("num_nodes", [0, -1, 2.5, True, "three"])
def test_an_invalid_number_of_nodes_is_refused(num_nodes):
    with pytest.raises(ValueError, match=r"num_nodes must be a whole number >= 1; got"):
        DLoRA("ring", num_nodes=num_nodes)


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.5])
def test_an_invalid_fraction_is_refused(fraction):
    with pytest.raises(ValueError, match=r"evaluate_fraction must be > 0 and <= 1; got"):
        STRATEGIES["decaf"]("ring", evaluate_fraction=fraction)
