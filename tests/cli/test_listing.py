"""``flwr-decaf list`` prints what the code declares."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.table import Table

from flwr_decaf.cli.listing import NAMED, SETTINGS, markdown, meanings
from flwr_decaf.config import Config, flatten
from flwr_decaf.config.reference import declared_settings
from tests.cli.test_commands import call

SETTINGS_PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def test_every_setting_is_listed_once_with_its_default_and_a_sentence():
    declared = list(declared_settings())
    assert [one.key for one in declared] == list(flatten(Config()))
    for one in declared:
        assert one.meaning[0].isupper(), one
        assert one.meaning.endswith("."), one
    rank = next(one for one in declared if one.key == "lora.rank")
    assert rank == (
        "lora.rank", "a whole number", "8", "Rank of the factors A and B.", "be >= 1"
    )  # fmt: skip


def test_the_page_of_settings_is_current():
    """Update it with: flwr-decaf list settings --markdown > docs/settings.md."""
    assert SETTINGS_PAGE.read_text("utf8") == markdown(SETTINGS)


@pytest.mark.parametrize("kind", NAMED)
def test_every_name_has_a_meaning(kind):
    lines = markdown(kind).splitlines()[2:]
    assert len(lines) == len(NAMED[kind])
    for name, line in zip(NAMED[kind], lines, strict=True):
        _, listed, meaning, _ = line.split("|")
        assert listed.strip() == name
        assert len(meaning.strip()) > 5


def test_every_kind_is_listed():
    out = call("list").stdout
    assert all(kind in out for kind in NAMED)
    assert "decaf, dlora" in out


def test_one_kind_is_listed_with_meanings():
    out = call("list", "topologies").stdout
    assert "Build a ring without one of its edges" in out
    assert "train.local-epochs" in call("list", "settings").stdout


def test_on_a_narrow_terminal_each_setting_is_a_paragraph():
    lines = meanings(SETTINGS, width=80).plain.splitlines()
    assert max(map(len, lines)) <= 80
    at = lines.index("lora.rank  (a whole number, by default 8)")
    assert lines[at + 1] == "  Rank of the factors A and B. Must be >= 1."
    assert isinstance(meanings(SETTINGS, width=160), Table)


def test_another_kind_is_refused():
    result = call("list", "graphs")
    assert result.exit_code == 2
    assert "KIND must be one of strategies, topologies" in result.stderr
