"""The page on metrics lists exactly what nodes and runs report."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flwr_decaf.app import client_app
from flwr_decaf.app.nodes import Nodes
from flwr_decaf.app.run import run_once
from flwr_decaf.clients.tasks.scores import clip_scores, language_scores
from flwr_decaf.config import flatten, parse_config
from flwr_decaf.report.summary import summarize
from flwr_decaf.runs.folder import RunFolder
from tests.keys import keyed_grid
from tests.local_grid import LocalGrid

PAGE = (Path(__file__).parents[2] / "docs/metrics.md").read_text("utf8")
SETTINGS = {
    "model.task": "cnn", "model.name": "mlp", "model.width": 16, "train.precision": "fp16",
    "data.name": "package:flwr_decaf_demo/fashion_mnist", "data.image-size": 14,
    "data.partitioner": "iid", "data.max-train-samples": 120, "data.max-test-samples": 20,
    "train.local-steps": 1, "num-server-rounds": 2, "evaluate-every": 2, "retries": 0,
}  # fmt: skip
DEFAULTS = flatten(parse_config({}))
TEXT = {key: x for key, x in DEFAULTS.items() if key.startswith(("model.", "data."))} | {
    "data.max-train-samples": 60, "data.max-test-samples": 10, "data.max-length": 8,
}  # fmt: skip
N = 3
COUNTS = {"rows": 1, "guessed 0": 1, "true 0": 1, "hit 0": 1}
SCORES = {
    *language_scores({"nll": 1, "tokens": 1, **COUNTS}),
    *clip_scores({"queries": 1, "within 1": 1, "within 5": 1, **COUNTS}),
}


def listed(*sections):
    keys = set()
    for section in sections:
        table = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
        for cell in re.findall(r"^\| (`.+?) \|", table, flags=re.MULTILINE):
            keys |= set(re.findall(r"`([\w.-]+)`", cell))
    return keys


class OneFailure(LocalGrid):
    """A node fails in the training of round 1."""

    def send_and_receive(self, messages, *, timeout=None):
        messages = list(messages)
        configs = [message.content.get("config", {}) for message in messages]
        self.broken = {1} if any(config.get("server-round") == 1 for config in configs) else set()
        return super().send_and_receive(messages, timeout=timeout)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return [
        one_run({"strategy": "dimat"}, LocalGrid, tmp_path_factory),
        one_run(
            {"strategy": "dlora", "evaluate-average": True, "train.optimizer-state": "kept"},
            OneFailure,
            tmp_path_factory,
        ),
        one_run({"strategy": "dlora", "rounds.mode": "asynchronous"}, LocalGrid, tmp_path_factory),
        one_run({"strategy": "relay-sum"}, LocalGrid, tmp_path_factory),
        one_run({"strategy": "fedavg"}, LocalGrid, tmp_path_factory),
        one_run(TEXT | {"strategy": "decaf", "posts.energy": 0.9}, LocalGrid, tmp_path_factory),
        one_run(
            {"strategy": "dlora", "posts.encryption": "x25519"},
            lambda app, n: keyed_grid(app, tmp_path_factory.mktemp("keys"), n),
            tmp_path_factory,
        ),
    ]


def one_run(settings, kind, places):
    config = parse_config(SETTINGS | settings)
    folder = RunFolder.create(places.mktemp("run"), flatten(config))
    grid = kind(client_app.app, N)
    run_once(grid, Nodes(dict(enumerate(grid.ids)), N), config, flatten(config), folder)
    return folder


def reported(folders, *phases):
    lines = [line for folder in folders for line in folder.metrics if line["phase"] in phases]
    return {key for line in lines for key in line}


def test_metrics_of_training(folders):
    assert reported(folders, "train") == listed("Every line", "Training", "Mixing")


def test_metrics_of_evaluation(folders):
    known = listed("Every line", "Evaluation", "Mixing") - {"local-...", "average-..."}
    scores = reported(folders, "evaluate", "average") & {
        f"{place}{score}" for place in ("", "local-", "average-") for score in SCORES
    }
    assert known >= SCORES
    assert reported(folders, "evaluate", "average") - scores == known - SCORES
    assert {"accuracy", "local-accuracy", "average-accuracy"} <= scores


def test_metrics_of_missing_nodes(folders):
    every = listed("Every line") - {"elapsed"}
    assert reported(folders, "missing") == every | listed("Missing nodes")


def test_the_phases_are_those_on_the_page(folders):
    row = next(line for line in PAGE.splitlines() if line.startswith("| `phase`"))
    phases = {line["phase"] for folder in folders for line in folder.metrics}
    assert phases == set(re.findall(r"`(\w+)`", row)) - {"phase"}


def test_values_of_a_run(folders):
    network = {key for folder in folders for key in folder.run["network"]}
    assert network | {"start-up-seconds"} == listed("The run")


def test_columns_of_several_runs(folders):
    columns = set(summarize(folders).columns)
    perplexities = {name.replace("accuracy", "perplexity") for name in columns}
    assert columns | perplexities == listed("Tables of several runs")
