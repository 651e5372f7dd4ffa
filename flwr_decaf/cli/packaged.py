"""Files other than modules that the package includes: settings of experiments, and the Flower app.

In a wheel, these files are in ``flwr_decaf/shipped``, where pyproject.toml puts them; in a clone,
they are in its root folder.
"""

from __future__ import annotations

import contextlib
import difflib
import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import flwr_decaf

_PACKAGE = Path(flwr_decaf.__file__).parent
_OF_AN_APP = ("pyproject.toml", "README.md", "LICENSE")


def shipped_files() -> Path:
    """Return the folder with conf/ and the app's pyproject.toml."""
    shipped = _PACKAGE / "shipped"
    return shipped if shipped.is_dir() else _PACKAGE.parent


def settings_file(conf: Path) -> Path:
    """Find a settings file: a path, or the name of an experiment that the package includes.

    Parameters
    ----------
    conf : Path
        Path of a TOML file, or a name such as ``ring`` or ``paper/tad-lora``.

    Raises
    ------
    ValueError
        If there is no such file or experiment; the message names the nearest experiment.
    """
    if conf.is_file():  # a folder may have the name of an experiment
        return conf
    experiments = experiment_files()
    name = conf.as_posix()
    if name in experiments:
        return experiments[name]
    nearest = difflib.get_close_matches(name, experiments, n=1, cutoff=0.0)
    found = "is a folder" if conf.is_dir() else "does not exist"
    raise ValueError(
        f"CONF must be a TOML file of settings, or one of {', '.join(experiments)}; got {name!r}, "
        f"which {found}; did you mean {nearest[0]!r}?"
    )


def experiment_files() -> dict[str, Path]:
    """Return the settings files that the package includes, by name."""
    folder = shipped_files() / "conf"
    files = sorted(folder.rglob("*.toml"))
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}


@contextlib.contextmanager
def app_folder(given: Path | None) -> Iterator[Path]:
    """Provide the folder of a Flower app during the block.

    Parameters
    ----------
    given : Path or None
        Folder of an app. With None, it is the current folder if that is a Flower app, and otherwise
        the app that the package includes.

    Raises
    ------
    ValueError
        If ``given`` is not the folder of a Flower app.
    """
    if given is not None and not _is_app(given):
        raise ValueError(
            f"--app must be the folder of a Flower app; {given} has no pyproject.toml with "
            "[tool.flwr.app]; omit it to use the app of flwr-decaf"
        )
    folder = given or Path.cwd()
    if _is_app(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="flwr-decaf-own-app-") as temporary:
        app = Path(temporary) / "app"
        unneeded = shutil.ignore_patterns("__pycache__", "shipped")
        shutil.copytree(_PACKAGE, app / _PACKAGE.name, ignore=unneeded)
        for name in _OF_AN_APP:
            shutil.copy(shipped_files() / name, app)
        yield app


def _is_app(folder: Path) -> bool:
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf8"))
    except FileNotFoundError:
        return False
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{folder / 'pyproject.toml'} must be TOML; {error}; fix it") from error
    return "app" in project.get("tool", {}).get("flwr", {})
