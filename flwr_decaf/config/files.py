"""Read settings for ``flwr run`` from a TOML file and overrides, and check them."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from flwr_decaf.config.comparison import runs_of
from flwr_decaf.config.network import network_of
from flwr_decaf.config.parsing import flatten, parse_config
from flwr_decaf.config.setting import Value
from flwr_decaf.text import toml_value
from flwr_decaf.topology.participation import read_schedule


def checked_settings(conf: Path, overrides: Sequence[str], n: int) -> dict[str, Value]:
    """Read settings, apply overrides, and check them, including the network on n nodes.

    Parameters
    ----------
    conf : Path
        TOML file, nested or with dotted keys.
    overrides : sequence of str
        Settings as ``key=value``; a value that is not valid TOML is taken as text.
    n : int
        Number of nodes.

    Returns
    -------
    dict
        All settings, flat. Paths of existing files and folders are absolute, since the run uses
        processes with other working directories.

    Raises
    ------
    ValueError
        If the file or a setting is wrong; the message names the problem and the remedy.
    """
    try:
        given = flat(tomllib.loads(conf.read_text(encoding="utf8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        cause = getattr(error, "strerror", None) or error  # without the number of an OSError
        raise ValueError(
            f"CONF must be a TOML file of settings; got {str(conf)!r} ({cause}); see conf/"
        ) from error
    given |= dict(_override(text) for text in overrides)
    if "participation" in given:  # its content, as its file may not be readable elsewhere
        given["participation"] = json.dumps(read_schedule(given["participation"]) or "").strip('"')
    config = parse_config(given)
    for run in runs_of(config).values():
        network_of(run, n)
    values = flatten(config)
    values["output-dir"] = str(Path(config.output_dir).resolve())
    for key in ("topology.file", "data.name", "data.label-skew", "model.name"):
        if (name := str(values[key])) and len(name) < 256 and Path(name).exists():
            values[key] = str(Path(name).resolve())
    return values


def to_toml(values: Mapping[str, Value]) -> str:
    """Format flat settings as TOML, with one table per section."""
    nested: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[name] = value
    return tomli_w.dumps(nested)


def _override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set must be key=value; got {text!r}; write e.g. --set lora.rank=4")
    return key, toml_value(value)


def flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested TOML tables to dotted keys, as Flower does."""
    flattened: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        flattened |= flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flattened
