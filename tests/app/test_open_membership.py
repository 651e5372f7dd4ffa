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


class JoinedInRound2(LocalGrid):
    """Node 2 joins before round 2."""

    def send_and_receive(self, messages, *, timeout=None):
        replies = super().send_and_receive(messages, timeout=timeout)
        configs = [m.content["config"] for m in self.sent if "config" in m.content]
        if 2 in self.away and any(config.get("server-round") == 1 for config in configs):
            self.join(2)
            self.contexts[self.ids[2]].run_config = next(iter(self.contexts.values())).run_config
        return replies


def run(values, configure):
    grid = JoinedInRound2(client_app.app, 3, node_config=configure)
    for context in grid.contexts.values():
        context.run_config = values
    grid.away.add(2)
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
