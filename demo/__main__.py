"""Install ``flwr_decaf_demo`` next to the installed packages: ``python -m demo``.

Settings files can then name the data sets and models ``package:flwr_decaf_demo/emoji``,
``.../fashion_mnist``, ``.../vit-small`` and ``.../vit-minilm``. Existing ones are kept.
"""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path

import datasets
from transformers.utils import logging

from demo import dual_encoder, emoji, fashion_mnist, vit

ROOT = Path(sysconfig.get_path("purelib")) / "flwr_decaf_demo"
PARTS: dict[str, Callable[[Path], None]] = {
    "emoji": emoji.write,
    "fashion_mnist": fashion_mnist.write,
    "vit-small": vit.write,
    "vit-minilm": lambda folder: dual_encoder.write(folder, ROOT / "vit-small", ROOT / "emoji"),
}


def main() -> None:
    """Write each part under a temporary name, and rename it when it is complete."""
    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # warnings about newly initialized weights are expected
    for name, write in PARTS.items():
        folder, unfinished = ROOT / name, ROOT / f"{name}.unfinished"
        if folder.exists():
            continue
        print(f"demo: {name}", flush=True)
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        write(unfinished)
        unfinished.rename(folder)


if __name__ == "__main__":
    main()
