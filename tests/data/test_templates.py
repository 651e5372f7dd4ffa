from __future__ import annotations

import pytest

from flwr_decaf.data.templates import columns_of, fill


def test_columns_in_braces_are_replaced():
    template = "{a} and {two words}, {a}"
    assert columns_of(template) == ["a", "two words", "a"]
    assert fill(template, {"a": 1, "two words": "x", "b": "unused"}) == "1 and x, 1"


@pytest.mark.parametrize("text", ["{}", "{a.__class__}", "{a[0]}", "{a!r}", "{a:>9}"])
def test_braces_can_only_name_a_column(text):
    # All but the empty pair are names of columns that do not exist.
    if columns_of(text):
        with pytest.raises(KeyError):
            fill(text, {"a": "x"})
    else:
        assert fill(text, {"a": "x"}) == text


def test_values_are_not_expanded_again():
    assert fill("{a}{b}", {"a": "{b}", "b": "{a}"}) == "{b}{a}"
