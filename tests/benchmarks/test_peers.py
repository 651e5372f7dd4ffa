import ast
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.peers.__main__ import BATCH, NODES, STEPS, TEST_ROWS, arrays, rows_of
from benchmarks.peers.digits import average, neighbours
from benchmarks.peers.environments import ROOT, last_line, pinned
from benchmarks.peers.measuring import figures, run

LOG = [
    {"at": 100.0, "launched": True},
    {"at": 103.0, "started": 0},
    {"at": 102.5, "started": 1},
    *({"at": at, "node": 0, "trained": t} for t, at in enumerate([104.0, 106.0, 111.0])),
    *({"at": at, "node": 1, "trained": t} for t, at in enumerate([105.0, 106.5, 110.0])),
    {"at": 112.0, "node": 0, "accuracy": 0.5},
    {"at": 112.0, "node": 1, "accuracy": 0.75},
]


def test_rounds_end_when_the_last_node_has_trained():
    # The rounds end at 105, 106.5 and 111.
    assert figures(LOG, rounds=3, nodes=2) == {
        "s/round": 3.0, "start-s": 2.5, "total-s": 11.0, "accuracy": 0.625,
    }  # fmt: skip


@pytest.mark.parametrize("missing", [5, 8, 9, 10])
def test_an_incomplete_run_has_no_figures(missing):
    with pytest.raises(RuntimeError, match="were evaluated"):
        figures(LOG[:missing] + LOG[missing + 1 :], rounds=3, nodes=2)


def test_rows_contain_medians_and_ratios_to_the_first_framework():
    first = {"s/round": 2.0, "start-s": 4.0, "accuracy": 0.5}
    second = [first | {"s/round": seconds} for seconds in (3.0, 6.0, 7.0)]
    runs = {"bare": [first, {"MB": 100.0}], "ours": [*second, {"MB": 250.0}], "theirs": [first]}
    bare, ours, theirs = rows_of(runs, {"theirs": "not installed: no network"})
    assert (bare["s/round"], bare["s/round-ratio"], bare["MB-ratio"]) == (2.0, 1.0, 1.0)
    assert (ours["s/round"], ours["s/round-ratio"], ours["start-s-ratio"]) == (6.0, 3.0, 1.0)
    assert (ours["MB"], ours["MB-ratio"], ours["accuracy"]) == (250.0, 2.5, 0.5)
    assert theirs == {"framework": "theirs", "left-out": "not installed: no network"}


def test_nodes_train_on_their_own_rows_once_per_round():
    batches = arrays(rounds=2)["batches"]
    assert batches.shape == (2, NODES, STEPS, BATCH)
    for node in range(NODES):
        assert set(batches[:, node].ravel() % NODES) == {node}
        for of_round in batches[:, node]:
            assert len(set(of_round.ravel())) == STEPS * BATCH
    assert len(arrays(rounds=1)["images"]) + TEST_ROWS == 1797
    assert not np.array_equal(batches[0], batches[1])


def test_states_are_averaged_except_counters():
    own = {"weight": torch.tensor([1.0, 2.0]), "batches": torch.tensor(4)}
    other = {"weight": torch.tensor([4.0, -2.0]), "batches": torch.tensor(6)}
    mixed = average([own, other, other])
    assert mixed["weight"].tolist() == pytest.approx([3.0, -2 / 3])
    assert mixed["batches"].item() == 4


def test_a_ring_is_closed():
    assert [neighbours(i, nodes=3) for i in range(3)] == [[2, 1], [0, 2], [1, 0]]


def test_torch_has_the_version_of_this_project():
    assert pinned("torch", "torchmetrics==1.9\ntorch==2.13.0\n") == "torch==2.13.0"
    with pytest.raises(ValueError, match=r"no version of torch$"):
        pinned("torch", "torchvision==0.28.0\n")


def test_the_reason_of_a_failure_is_the_last_line():
    assert last_line("Traceback\n  File\nImportError: no ray\n\n") == "ImportError: no ray"
    assert last_line("\n") == "no output"


def test_a_failed_run_says_why():
    with pytest.raises(RuntimeError, match="cannot import name 'by_nobody'"):
        run(Path(sys.executable), "by_nobody", arrays(rounds=1))


def test_the_bare_loop_runs():
    result = run(Path(sys.executable), "by_bare_loop", arrays(rounds=2))
    assert 0 < result["start-s"] < result["total-s"]
    assert 0.1 < result["accuracy"] < 1


@pytest.mark.parametrize("name", ["__init__", "digits", "by_nvflare", "by_p2pfl", "p2pfl_learner"])
def test_other_environments_need_nothing_of_this_package(name):
    tree = ast.parse((ROOT / "benchmarks" / "peers" / f"{name}.py").read_text("utf8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [getattr(node, "module", None) or node.names[0].name for node in imports]
    assert not [name for name in names if name.split(".")[0] == "flwr_decaf"]
    own = {f"benchmarks.peers.{module}" for module in ("digits", "by_nvflare", "p2pfl_learner")}
    assert {name for name in names if name.startswith("benchmarks.")} <= own | {"benchmarks.peers"}
