"""Packages that only some settings need: the extras of this package."""

from __future__ import annotations

import importlib.util

_PACKAGES = {"gguf": "gguf", "quantization": "bitsandbytes", "tensorboard": "tensorboard"}


def require_extra(extra: str, setting: str) -> None:
    """Require the package of an extra.

    Parameters
    ----------
    extra : str
        "gguf", "quantization" or "tensorboard".
    setting : str
        What asks for it, as ``key = value``.

    Raises
    ------
    ValueError
        If the package is not installed.
    """
    package = _PACKAGES[extra]
    if importlib.util.find_spec(package) is None:
        raise ValueError(
            f"{setting} needs the package {package}; it is not installed; run pip install "
            f"'flwr-decaf[{extra}]', or change the setting"
        )
