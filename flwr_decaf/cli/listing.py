"""Lists of the settings and of the names that they accept, generated from the code."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from flwr_decaf import registries
from flwr_decaf.app.quick_imports import quick_imports
from flwr_decaf.config.reference import Declared, declared_settings
from flwr_decaf.registries import Registry
from flwr_decaf.topology.graphs import TOPOLOGIES
from flwr_decaf.topology.time_varying import FINITE_TIME, TIME_VARYING
from flwr_decaf.topology.weights import WEIGHTS

NAMED: dict[str, Mapping[str, object]] = {
    "strategies": Registry(registries.STRATEGIES),
    "topologies": TOPOLOGIES,
    "time-varying-graphs": {**TIME_VARYING, **FINITE_TIME},
    "weights": WEIGHTS,
    "robust-methods": Registry(registries.ROBUST),
    "tasks": Registry(registries.TASKS),
    "data-sets": Registry(registries.DEMO_SETS),
    "partitioners": Registry(registries.PARTITIONERS),
    "augmentations": Registry(registries.AUGMENTATIONS),
    "schedules": Registry(registries.LEARNING_RATES),
}
SETTINGS = "settings"
_WIDE = 120  # columns from which the five columns of the settings are readable

_INTRODUCTION = """# Settings

Keys of `[tool.flwr.app.config]`, as printed by `flwr-decaf list settings --markdown`. A settings
file contains those that differ from the defaults, `--set KEY=VALUE` overrides one of them, and a
list can be written as a TOML list or as text with commas.

An error is a single line with the key, the rule, the value and the remedy. Settings are checked

- before anything starts: names, types, ranges, the graph for the given number of nodes, and
  whether this machine has the required GPUs, packages and connection;
- while the engine starts, before the first round: what depends on the model and the data, such as
  columns, layers to adapt and partitions, and a trial training step;
- with plain `flwr run`: all of this in the ServerApp, after the engine has started.
"""


def names() -> Table:
    """Tabulate everything that can be listed, without importing what the names refer to."""
    rows = [(kind, ", ".join(named)) for kind, named in NAMED.items()]
    count = sum(1 for _ in declared_settings())
    return _table(("kind", "names"), [*rows, (SETTINGS, f"all {count} of them")])


def meanings(kind: str, width: int) -> Table | Text:
    """Tabulate the names of a kind, or the settings, with their meanings.

    On fewer than 120 columns, each setting is a paragraph instead of a row.
    """
    if kind == SETTINGS and width < _WIDE:
        return Text("\n").join(_paragraph(one, width) for one in declared_settings())
    return _table(*_rows(kind))


def _paragraph(one: Declared, width: int) -> Text:
    rule = f" Must {one.rule}." if one.rule else ""
    meaning = textwrap.fill(one.meaning + rule, width, initial_indent="  ", subsequent_indent="  ")
    kind = f"{one.kind}, by default {one.default}" if one.default else one.kind
    return Text.assemble((one.key, "bold"), f"  ({kind})\n{meaning}")


def markdown(kind: str) -> str:
    """Format the same table as Markdown; for the settings, the whole of docs/settings.md."""
    headings, rows = _rows(kind)
    cells = ([_cell(*place) for place in zip(headings, row, strict=True)] for row in rows)
    lines = [headings, ["---"] * len(headings), *cells]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"{_INTRODUCTION}\n{table}" if kind == SETTINGS else table


def _rows(kind: str) -> tuple[Sequence[str], list[Sequence[str]]]:
    if kind == SETTINGS:
        return ("key", "type", "default", "meaning", "a value must"), list(declared_settings())
    with quick_imports():
        return ("name", "meaning"), [(name, _summary(x)) for name, x in NAMED[kind].items()]


def _summary(named: object) -> str:
    return (inspect.getdoc(named) or "").partition("\n")[0].replace("``", "")


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for place, heading in enumerate(headings):
        table.add_column(heading, no_wrap=not place, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _cell(heading: str, text: str) -> str:
    escaped = text.replace("|", "\\|")
    return f"`{escaped}`" if text and heading in ("key", "default") else escaped
