"""Run folders with numbers that can be checked by hand."""

from __future__ import annotations

import pytest

from flwr_decaf.config import Config, flatten
from flwr_decaf.runs.folder import RunFolder

# strategy -> accuracy of (node 0, node 1) in rounds 0, 1 and 2, and megabytes sent per round
CURVES = {
    "decaf": ([(0.1, 0.1), (0.3, 0.5), (0.6, 0.8)], 2),
    "fedavg": ([(0.1, 0.1), (0.3, 0.3), (0.5, 0.5)], 4),
}


def write_run(path, strategy, seed=0, rounds=2, **settings):
    curve, megabytes = CURVES[strategy]
    values = flatten(Config()) | {"strategy": strategy, "seed": seed, **settings}
    folder = RunFolder.create(path, values)
    network = {"lambda2": 0.0, "links": [[0, 1, 0.5]]} if strategy == "decaf" else {}
    folder.update(network={"nodes": 2, **network})
    for t in range(rounds + 1):
        for node in range(2):
            common = {"round": t, "node": node, "process": 7 + node}
            if t:
                line = {
                    "bytes-sent": megabytes * 1e6,
                    "train-seconds": 3.0,
                    "elapsed": 10.0 * t - 5,
                }
                if strategy == "decaf":
                    line |= {"distance-to-mean": 3.0 * t}
                    line |= {
                        "mixing-seconds": 0.5,
                        "mixing-interference": 0.1,
                        "mixing-neighbours": 1,
                    }
                folder.append([{**common, "phase": "train", **line}])
            line = {
                "accuracy": curve[t][node] + 0.1 * seed,
                "evaluate-seconds": 1.0,
                "elapsed": 10.0 * t,
            }
            folder.append([{**common, "phase": "evaluate", **line}])
    return folder


def write_comparison(path):
    """Write two strategies with two seeds each, all finished."""
    folders = []
    for seed in (0, 1):
        for strategy in CURVES:
            folders.append(write_run(path / "c" / f"{strategy}-s{seed}", strategy, seed))
            folders[-1].finish("finished")
    return folders


@pytest.fixture
def comparison(tmp_path):
    return write_comparison(tmp_path)
