"""Two helpers on text that several modules need."""

from __future__ import annotations


def split_list(text: str) -> list[str]:
    """Split a list at its commas, without the blanks around them (Flower's settings are scalars).

    Examples
    --------
    >>> split_list("decaf, dlora,")
    ['decaf', 'dlora']
    """
    return [part.strip() for part in text.split(",") if part.strip()]


def first_line(error: BaseException) -> str:
    r"""Get the first line of an error's text; some libraries write a page.

    Examples
    --------
    >>> first_line(ValueError("no such model\nTry ...\n"))
    'no such model'
    """
    return (str(error).splitlines() or [""])[0]
