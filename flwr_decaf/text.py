"""Helpers on text that several modules need."""

from __future__ import annotations

import tomllib
from typing import Any


def split_list(text: str) -> list[str]:
    """Split a list at its commas, without the blanks around them (Flower's settings are scalars).

    Examples
    --------
    >>> split_list("decaf, dlora,")
    ['decaf', 'dlora']
    """
    return [part.strip() for part in text.split(",") if part.strip()]


def toml_value(text: str) -> Any:
    """Read a value as TOML, or take it as text.

    Examples
    --------
    >>> toml_value("4"), toml_value("true"), toml_value("ring")
    (4, True, 'ring')
    """
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def first_line(error: BaseException) -> str:
    r"""Get the first line of an error's text; some libraries write a page.

    Examples
    --------
    >>> first_line(ValueError("no such model\nTry ...\n"))
    'no such model'
    """
    return (str(error).splitlines() or [""])[0]
