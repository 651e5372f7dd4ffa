"""The settings of runs, including defaults, and how to reproduce the runs."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Any

from flwr_decaf.config import Config, flatten, parse_config
from flwr_decaf.config.comparison import runs_of
from flwr_decaf.config.files import flat, to_toml
from flwr_decaf.runs.folder import RunFolder

_LISTED = ("strategy", "seed")  # settings that become lists if runs differ in them
_OWN = ("run-name", "output-dir", "seeds", "sweep", "resume-from")
_MAIN = (
    "strategy", "seed", "num-server-rounds", "model.name", "model.task", "data.name",
    "data.classes", "data.partitioner", "data.alpha", "data.max-length", "lora.rank", "lora.alpha",
    "lora.dropout", "lora.target-modules", "topology.name", "topology.dynamic", "mixing-steps",
    "posts.dtype", "posts.energy", "train.local-steps",
    "train.local-epochs", "train.batch-size", "train.learning-rate", "train.schedule",
)  # fmt: skip


def settings_of(folders: Sequence[RunFolder]) -> dict[str, str]:
    """Return every setting of the runs with all of its values.

    Examples
    --------
    A comparison of two strategies has ``"strategy": "decaf, fedavg"``.
    """
    runs = [folder.run["settings"] for folder in folders]
    return {
        key: ", ".join(dict.fromkeys(str(run.get(key)) for run in runs))
        for key in runs[0]
        if key not in _OWN
    }


def main_settings(folders: Sequence[RunFolder]) -> dict[str, str]:
    """Select the settings that describe an experiment: model, data, split, LoRA and training."""
    values = settings_of(folders)
    return {key: values[key] for key in _MAIN if values.get(key)}


def commands(folders: Sequence[RunFolder]) -> list[tuple[int, str]]:
    """List what reproduces these runs: numbers of nodes, and settings files as TOML text.

    There is one entry if the runs are all combinations of some values, as in
    ``comparison.runs_of``, and otherwise one for each run.
    """
    nodes = [folder.run.get("network", {}).get("nodes", 0) for folder in folders]
    combined = settings_to_reproduce(folders)
    try:
        requested = len(runs_of(parse_config(flat(tomllib.loads(combined)))))
    except ValueError:  # values with commas of their own cannot be swept
        requested = 0
    if requested == len(folders) and len(set(nodes)) == 1:
        return [(nodes[0], combined)]
    return [(n, settings_to_reproduce([one])) for n, one in zip(nodes, folders, strict=True)]


def settings_to_reproduce(folders: Sequence[RunFolder]) -> str:
    """Write a settings file that requests all combinations of these runs' settings.

    It is TOML text that omits settings with default values.
    """
    runs = [folder.run["settings"] for folder in folders]
    values: dict[str, list[Any]] = {
        key: list(dict.fromkeys(run[key] for run in runs)) for key in runs[0] if key not in _OWN
    }
    swept = {k: v for k, v in values.items() if len(v) > 1 and k not in _LISTED}
    defaults = flatten(Config())
    chosen = {k: v[0] for k, v in values.items() if len(v) == 1 and v[0] != defaults.get(k)}
    chosen["strategy"] = ", ".join(values["strategy"])
    if len(values["seed"]) > 1:
        chosen["seeds"] = ", ".join(map(str, values["seed"]))
    if swept:
        terms = (f"{key} = {', '.join(map(str, value))}" for key, value in swept.items())
        chosen["sweep"] = "; ".join(terms)
    return to_toml(dict(sorted(chosen.items(), key=lambda item: (item[0].count("."), item[0]))))
