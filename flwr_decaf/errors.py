"""Errors of other libraries, told in one line of ours."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    r"""Get the first line of an error's text; some libraries write a page.

    Examples
    --------
    >>> first_line(ValueError("no such model\nTry ...\n"))
    'no such model'
    """
    return (str(error).splitlines() or [""])[0]
