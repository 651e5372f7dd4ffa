"""Fashion-MNIST (MIT): 60,000 + 10,000 grey 28 x 28 images in ten classes, from Debian."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import PIL.Image
from datasets import ClassLabel, Dataset, Features, Image

from demo.download import download

URL = (
    "http://deb.debian.org/debian/pool/main/d/dataset-fashion-mnist/"
    "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb"
)
SHA256 = "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0"
CLASSES = [
    "T-shirt", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
]  # fmt: skip
_FILES = "./usr/share/datasets/fashion-mnist/"


def write(folder: Path) -> None:
    """Write train.parquet and test.parquet with columns image and label."""
    package = members(download(URL, SHA256))
    data = next(content for name, content in package.items() if name.startswith("data.tar"))
    features = Features(image=Image(), label=ClassLabel(names=CLASSES))
    with tarfile.open(fileobj=io.BytesIO(data)) as packed:
        for split, prefix in (("train", "train"), ("test", "t10k")):
            pictures = _numbers(packed, f"{prefix}-images-idx3-ubyte", 16).reshape(-1, 28, 28)
            labels = _numbers(packed, f"{prefix}-labels-idx1-ubyte", 8)
            images = [{"bytes": _png(picture), "path": None} for picture in pictures]
            rows = Dataset.from_dict({"image": images, "label": labels}, features=features)
            rows.to_parquet(folder / f"{split}.parquet")


def members(archive: bytes) -> dict[str, bytes]:
    """Unpack a .deb file, an ar archive with headers of 60 bytes and contents at even offsets."""
    contents, at = {}, len(b"!<arch>\n")
    while at < len(archive):
        header = archive[at : at + 60]
        size = int(header[48:58])
        contents[header[:16].decode().strip().rstrip("/")] = archive[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    return contents


def _numbers(packed: tarfile.TarFile, name: str, header: int) -> np.ndarray:
    file = packed.extractfile(f"{_FILES}{name}.gz")
    if file is None:
        raise OSError(f"{URL} must contain {name}; there is no such file")
    return np.frombuffer(gzip.decompress(file.read()), dtype=np.uint8, offset=header)


def _png(picture: np.ndarray) -> bytes:
    content = io.BytesIO()
    PIL.Image.fromarray(picture).save(content, format="PNG")
    return content.getvalue()
