"""Open membership in the app: nodes with their own rows join a run, or are refused."""

from __future__ import annotations

import pytest
from flwr.app import Context, RecordDict

from flwr_decaf.app import client_app, server_app
from flwr_decaf.app.preflight import check
from flwr_decaf.config import parse_config
from flwr_decaf.report.page import write_report
from flwr_decaf.report.table import run_table
from flwr_decaf.runs.folder import RunFolder
from tests.app.test_own_rows import settings, write_rows
from tests.app.test_preflight import NETWORK
from tests.local_grid import LocalGrid

OPEN = {"topology.membership": "open", "topology.quorum": 2, "topology.leave-after": 1}


class JoinedLater(LocalGrid):
    """A node joins once a round has been called, by default before round 2."""

    place, server_round = 2, 1

    def send_and_receive(self, messages, *, timeout=None):
        replies = super().send_and_receive(messages, timeout=timeout)
        configs = [m.content["config"] for m in self.sent if "config" in m.content]
        called = [config.get("server-round") for config in configs]
        if self.place in self.away and self.server_round in called:
            self.join(self.place)
            new = self.contexts[self.ids[self.place]]
            new.run_config = next(iter(self.contexts.values())).run_config
        return replies


class JoinedInRound0(JoinedLater):
    """Node 0 joins while the others evaluate the initial arrays."""

    place, server_round = 0, 0


class Stopped(LocalGrid):
    """The run stops in round 1."""

    def send_and_receive(self, messages, *, timeout=None):
        messages = list(messages)
        if any(m.content.get("config", {}).get("server-round") == 1 for m in messages):
            raise KeyboardInterrupt
        return super().send_and_receive(messages, timeout=timeout)


def run(values, configure, kind=JoinedLater, away=(2,), arrivals=()):
    grid = kind(client_app.app, 3, node_config=configure, arrivals=arrivals)
    for context in grid.contexts.values():
        context.run_config = values
    grid.away |= set(away)
    server_app.app(grid, Context(0, 0, {}, RecordDict(), values))


def trained(folder):
    lines = [line for line in folder.metrics if line["phase"] == "train"]
    return {t: sorted(x["node"] for x in lines if x["round"] == t) for t in (1, 2, 3)}


@pytest.mark.parametrize("classes", ["art, food, sport", "art, sport"])
def test_a_newcomer_must_have_rows_of_the_classes_of_the_run(classes, tmp_path, small_base, caplog):
    newcomers = ["art", "food"]
    paths = write_rows(tmp_path, classes=[["art", "sport"], ["sport", "art"], newcomers])

    def configure(place):
        own = {"data-path": str(paths[place]), "label-column": "label"}
        return {"partition-id": place, "num-partitions": 3, **own}

    values = settings(tmp_path, small_base, **{"num-server-rounds": 3, "data.classes": classes})
    run(values | OPEN, configure)
    folder, fits = RunFolder(tmp_path / "run"), "food" in classes
    there = [0, 1, 2] if fits else [0, 1]
    assert trained(folder) == {1: [0, 1], 2: there, 3: there}
    assert ("Node 2 is refused: " in caplog.text) != fits
    assert sorted(path.name for path in (folder.path / "adapters").iterdir()) == [
        f"node-{node}" for node in there
    ]
    assert len(folder.run["own-rows"]) == 2
    assert folder.run["network"]["nodes"] == 3


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        ({}, "node 0 must have data-path in its node-config if and only if the other nodes do"),
        ({"data-path": "food"}, "Node 0 is refused: "),
        ({"data-path": "art"}, ""),
    ],
)
def test_a_node_that_registers_while_the_run_starts_is_checked(
    own, reason, tmp_path, small_base, caplog
):
    paths = write_rows(tmp_path, classes=[["food", "art"], ["sport", "art"], ["art", "sport"]])
    paths[0] = {"food": paths[0], "art": paths[1]}.get(own.get("data-path"))

    def configure(place):
        files = {"data-path": str(paths[place]), "label-column": "label"} if paths[place] else {}
        return {"partition-id": place, "num-partitions": 3} | files

    values = settings(tmp_path, small_base, **{"data.classes": "art, sport"})
    run(values | OPEN, configure, JoinedInRound0, away=(0,))
    folder = RunFolder(tmp_path / "run")
    there = [1, 2] if reason else [0, 1, 2]
    assert trained(folder) == {1: there, 2: there, 3: []}
    assert reason in caplog.text
    assert [x["node"] for x in folder.metrics if x["round"] == 0] == [1, 2]
    assert "own-rows" in folder.run


def test_a_run_that_resumes_before_its_first_checkpoint_waits_for_its_quorum(tmp_path, small_base):
    paths = write_rows(tmp_path, classes=[["art", "sport"], ["sport", "art"], ["art", "sport"]])

    def configure(place):
        own = {"data-path": str(paths[place]), "label-column": "label"}
        return {"partition-id": place, "num-partitions": 3, **own}

    values = settings(tmp_path, small_base, **{"data.classes": "art, sport"}) | OPEN
    with pytest.raises(KeyboardInterrupt):
        run(values, configure, Stopped, away=(0,))
    folder = RunFolder(tmp_path / "run")
    assert folder.run["status"] == "failed"
    resumed = values | {"resume-from": str(folder.path)}
    run(resumed, configure, LocalGrid, away=(2,), arrivals=[1])  # of nodes 0 and 1, one is late
    folder = RunFolder(folder.path)
    assert [x["node"] for x in folder.metrics if x["round"] == 0] == [0, 1]
    assert trained(folder) == {1: [0, 1], 2: [0, 1], 3: []}
    assert [x["train"] for x in folder.run["own-rows"]] == [12, 30]


def test_classes_must_be_listed_if_nodes_join_later(tmp_path, small_base):
    paths = write_rows(tmp_path)

    def configure(place):
        own = {"data-path": str(paths[place]), "label-column": "label"}
        return {"partition-id": place, "num-partitions": 3, **own}

    with pytest.raises(ValueError, match=r"data.classes must list all .* got ''; list them"):
        run(settings(tmp_path, small_base) | OPEN, configure)


def test_a_newcomer_has_its_own_share_of_common_rows(tmp_path):
    values = NETWORK | {"num-server-rounds": 3, "output-dir": str(tmp_path), "run-name": "run"}
    whole = settings(tmp_path, "") | values
    run(whole | OPEN, lambda place: {"partition-id": place, "num-partitions": 3})
    folder = RunFolder(tmp_path / "run")
    assert trained(folder) == {1: [0, 1], 2: [0, 1, 2], 3: [0, 1, 2]}
    rows = {x["node"]: x["num-examples"] for x in folder.metrics if x["phase"] == "train"}
    assert list(rows) == [0, 1, 2]
    assert sum(rows.values()) <= 60
    assert run_table(folder).row_count >= 3
    assert write_report([folder], tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"strategy": "fedavg"}, "topology.membership must be 'closed' with strategy fedavg"),
        ({"strategy": "relay-sum"}, "topology.membership must be closed with relay-sum"),
        ({"strategy": "tad-lora"}, "must be closed with tad.phase-length = auto"),
        ({"topology.name": "random-regular", "topology.degree": 2}, "closed with topology.name r"),
        ({"posts.encryption": "x25519"}, "closed with posts.encryption"),
    ],
)
def test_settings_that_exclude_open_membership_are_refused_before_a_run(changed, message):
    with pytest.raises(ValueError, match=message):
        check(parse_config(NETWORK | OPEN | changed), 3, trains=False)
