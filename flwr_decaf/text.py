"""Text helpers shared by several modules."""

from __future__ import annotations

import tomllib
from typing import Any


def split_list(text: str) -> list[str]:
    """Split a comma-separated list and strip its items (Flower's settings are scalars).

    Examples
    --------
    >>> split_list("decaf, dlora,")
    ['decaf', 'dlora']
    """
    return [part.strip() for part in text.split(",") if part.strip()]


def toml_value(text: str) -> Any:
    """Parse a value as TOML; return the text itself if it is not valid TOML.

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
    r"""Return the first line of an error's message; some libraries write a whole page.

    Examples
    --------
    >>> first_line(ValueError("no such model\nTry ...\n"))
    'no such model'
    """
    return (str(error).splitlines() or [""])[0]
