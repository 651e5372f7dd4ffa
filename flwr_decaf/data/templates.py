"""Templates of prompts and responses: text with column names in braces, and nothing else.

``str.format`` would evaluate attributes and indices in braces, which a settings file must not
cause.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_NAME = re.compile(r"\{([^{}\n]+)\}")


def columns_of(template: str) -> list[str]:
    """List the columns that a template names.

    Examples
    --------
    >>> columns_of("Is {word} the same in: {first} / {second}?")
    ['word', 'first', 'second']
    """
    return _NAME.findall(template)


def fill(template: str, row: Mapping[str, object]) -> str:
    """Fill a template with the values of a row; braces in values are kept, None becomes empty.

    Examples
    --------
    >>> fill("{question} Yes or no?", {"question": "Is {x} a name?"})
    'Is {x} a name? Yes or no?'
    """
    return _NAME.sub(lambda name: _text(row[name[1]]), template)


def _text(value: object) -> str:
    return "" if value is None else str(value)
