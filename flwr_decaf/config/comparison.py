"""The runs that a configuration defines.

Each combination of strategies, seeds and swept values is a run of its own. All runs use the same
nodes in one simulation, so that the engine starts and the base model is loaded only once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import product
from pathlib import Path

from flwr_decaf.config.parsing import flatten, parse_config
from flwr_decaf.config.sections import Config
from flwr_decaf.config.setting import Value
from flwr_decaf.text import split_list, toml_value


def runs_of(config: Config) -> dict[str, Config]:
    """Expand a configuration into its runs.

    Parameters
    ----------
    config : Config
        Settings in which ``strategy`` and ``seeds`` have one or several values, and ``sweep`` lists
        settings with several: ``"lora.rank = 1, 2, 4; topology.name = ring, path"``. Duplicates run
        once.

    Returns
    -------
    dict of str to Config
        Name of the run -> its settings, with one strategy, one seed and no sweep. Strategies vary
        fastest, then seeds, so that what depends on a swept value is loaded once.

    Raises
    ------
    ValueError
        If the sweep cannot be parsed, or a swept value breaks its setting's rule.

    Examples
    --------
    >>> list(runs_of(parse_config({"strategy": "decaf, dlora", "seeds": "0, 1"})))
    ['decaf-s0', 'dlora-s0', 'decaf-s1', 'dlora-s1']
    """
    swept = _sweep(config)
    seeds = list(dict.fromkeys(map(int, split_list(config.seeds)))) or [config.seed]
    runs: dict[str, Config] = {}
    strategies = list(dict.fromkeys(split_list(config.strategy)))
    for *values, seed, strategy in product(*swept.values(), seeds, strategies):
        chosen = dict(zip(swept, values, strict=True))
        single = {"strategy": strategy, "seed": seed, "seeds": "", "sweep": ""}
        parts = [str(strategy), *(f"{key.split('.')[-1]}-{value}" for key, value in chosen.items())]
        if len(seeds) > 1:
            parts.append(f"s{seed}")
        runs[_unused("-".join(parts), runs)] = parse_config(flatten(config) | chosen | single)
    return runs


def folder_of(root: Path, name: str, count: int) -> Path:
    """Return the folder of a run: ``root`` if it is the only one, otherwise a subfolder."""
    return root if count == 1 else root / name


def difference(config: Config, base: Config) -> dict[str, Value]:
    """Return the settings in which a run differs from the configuration that defines it."""
    common = flatten(base)
    return {key: value for key, value in flatten(config).items() if value != common[key]}


def _unused(text: str, taken: Mapping[str, Config]) -> str:
    """Make an unused folder name from a text; paths in it must not lead elsewhere."""
    name = re.sub(r"[^\w.-]+", "_", text).replace("..", "_")
    return name if name not in taken else f"{name}-{len(taken)}"


def _sweep(config: Config) -> dict[str, list[Value]]:
    defaults = flatten(config)
    swept: dict[str, list[Value]] = {}
    for term in filter(str.strip, config.sweep.split(";")):
        key, _, values = (part.strip() for part in term.partition("="))
        if key not in defaults or key in ("strategy", "seed", "seeds", "sweep"):
            raise ValueError(
                f"sweep must list settings as KEY = VALUE, VALUE; KEY = ...; got {term.strip()!r}; "
                'write e.g. "lora.rank = 1, 2, 4" (strategy and seeds take lists themselves)'
            )
        each = [_read(value, like=defaults[key]) for value in split_list(values)]
        swept[key] = list(dict.fromkeys(each))
        if not swept[key]:
            raise ValueError(f"sweep must give {key} values; got none; write {key} = VALUE, VALUE")
    return swept


def _read(text: str, like: Value) -> Value:
    value: Value = text if isinstance(like, str) else toml_value(text)
    return float(value) if isinstance(like, float) and type(value) is int else value
