"""Output of commands: the console, and one-line errors with an exit status."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NoReturn

import typer
from rich.console import Console
from rich.text import Text

# Paths, settings and error messages may contain brackets, so nothing is parsed as markup.
console = Console(markup=False, highlight=False)
errors = Console(markup=False, highlight=False, stderr=True)


@contextlib.contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Print an exception that is raised in the block as one line, and exit.

    Raises
    ------
    typer.Exit
        With status 2 for bad input (ValueError), 130 for an interrupt, and otherwise 1.
    """
    try:
        yield
    except typer.Exit:  # a RuntimeError
        raise
    except ValueError as error:
        fail(str(error), code=2)
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        fail(f"{name}{error.strerror or error}; check the path, its permissions and the disk")
    except RuntimeError as error:
        fail(str(error))
    except KeyboardInterrupt as error:
        fail(str(error) or "interrupted", code=130)


def fail(message: str, code: int = 1) -> NoReturn:
    """Print an error, and exit with a status."""
    print_error("Error:", message, style="bold red")
    raise typer.Exit(code)


def print_error(heading: str, message: str, style: str) -> None:
    """Print a line to standard error, with its heading in a style."""
    errors.print(Text.assemble((heading, style), f" {message}"), soft_wrap=True)
