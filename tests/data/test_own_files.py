from __future__ import annotations

from flwr_decaf.data.own_files import NODE_DATA, OwnFiles, has_own_files, own_files


def test_a_node_config_names_the_files_and_their_columns():
    config = {"partition-id": 1, "num-partitions": 2, "data-path": "/a.csv", "own-run": True}
    assert own_files(config) == OwnFiles("/a.csv")
    named = {"test-path": "/b.csv", "text-column": "body", "label-column": "topic"}
    assert own_files(config | named) == OwnFiles("/a.csv", "/b.csv", "body", "", "topic")


def test_a_node_without_a_path_has_no_files():
    assert not has_own_files({"partition-id": 1})
    assert own_files({"partition-id": 1, "text-column": "body"}) is None


def test_in_a_simulation_the_environment_names_a_file_for_each_node(monkeypatch):
    monkeypatch.setenv(NODE_DATA, "/d/node-{}.csv")
    assert has_own_files({})
    own = OwnFiles("/d/node-3.csv", own_run=True)
    assert own_files({"partition-id": 3, "num-partitions": 4}) == own
    assert own_files({"partition-id": 3, "data-path": "/mine.csv"}) == OwnFiles("/mine.csv")
