"""Text helpers shared by several modules."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_LONGEST = 40  # characters of a name that are shown
_MOST = 8  # names that are shown


def split_list(text: str) -> list[str]:
    """Split a comma-separated list and strip its items (Flower's settings are scalars).

    Examples
    --------
    >>> split_list("decaf, dlora,")
    ['decaf', 'dlora']
    """
    return [part.strip() for part in text.split(",") if part.strip()]


def quoted(names: Iterable[object]) -> str:
    r"""List names of unknown origin in an error: escaped, shortened, and no more than eight.

    Examples
    --------
    >>> quoted(["pos", "a\nb"])
    "'pos', 'a\\nb'"
    >>> quoted(range(20))
    "'0', '1', '2', '3', '4', '5', '6', '7' and 12 more"
    """
    every = [str(name) for name in names]
    shown = [repr(name if len(name) <= _LONGEST else f"{name[:_LONGEST]}...") for name in every]
    more = f" and {len(every) - _MOST} more" if len(every) > _MOST else ""
    return ", ".join(shown[:_MOST]) + more


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


def keyword_arguments(text: str) -> dict[str, Any]:
    """Parse keyword arguments, written as a JSON object; an empty text contains none.

    Raises
    ------
    ValueError
        If the text is not valid JSON.
    TypeError
        If it is not an object.

    Examples
    --------
    >>> keyword_arguments('{"momentum": 0.9}'), keyword_arguments("")
    ({'momentum': 0.9}, {})
    """
    arguments = json.loads(text or "{}")
    if not isinstance(arguments, dict):
        raise TypeError("not a JSON object")
    return arguments


def first_line(error: BaseException) -> str:
    r"""Return the first line of an error's message; some libraries write a whole page.

    Examples
    --------
    >>> first_line(ValueError("no such model\nTry ...\n"))
    'no such model'
    """
    return (str(error).splitlines() or [""])[0]


def is_hub_id(name: str) -> bool:
    """Return whether a name has the form of an id on the Hugging Face Hub, and is no path here.

    Examples
    --------
    >>> is_hub_id("FacebookAI/roberta-base"), is_hub_id("../rows.csv"), is_hub_id("package:demo")
    (True, False, False)
    """
    return bool(_HUB_ID.fullmatch(name)) and not Path(name).exists()
