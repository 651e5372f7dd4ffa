"""Emoji: 1,906 colour images of 64 x 64 pixels with their names, in nine categories.

They are Twitter's Twemoji (CC-BY 4.0) as packaged by emoji-datasource-twitter in the npm registry.
Every fifth image of a category is held out for the test split.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, Features, Image, Value

from demo.download import download

URL = "https://registry.npmjs.org/emoji-datasource-twitter/-/emoji-datasource-twitter-16.0.0.tgz"
SHA256 = "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877"
_PICTURES = "package/img/twitter/64/"


def write(folder: Path) -> None:
    """Write train.parquet and test.parquet with columns image, label (category) and text (name)."""
    unzipped = gzip.decompress(download(URL, SHA256))  # in memory: the files are read out of order
    with tarfile.open(fileobj=io.BytesIO(unzipped)) as packed:
        index = json.loads(_read(packed, "package/emoji.json"))
        entries = [e for e in index if e["has_img_twitter"] and e["category"] != "Component"]
        entries.sort(key=lambda entry: entry["sort_order"])
        rows = [_row(packed, entry) for entry in entries]
    features = Features(
        image=Image(), label=ClassLabel(names=sorted({row["label"] for row in rows})),
        text=Value("string"),
    )  # fmt: skip
    seen: Counter[str] = Counter()
    splits: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for row in rows:
        splits["train" if (seen[row["label"]] + 1) % 5 else "test"].append(row)
        seen[row["label"]] += 1
    for split, chosen in splits.items():
        Dataset.from_list(chosen, features=features).to_parquet(folder / f"{split}.parquet")


def _row(packed: tarfile.TarFile, entry: dict[str, Any]) -> dict[str, Any]:
    name = entry["name"] or entry["short_name"].replace("_", " ")
    return {
        "image": {"bytes": _read(packed, _PICTURES + entry["image"]), "path": None},
        "label": entry["category"],
        "text": name.lower(),
    }


def _read(packed: tarfile.TarFile, name: str) -> bytes:
    member = packed.extractfile(name)
    if member is None:
        raise OSError(f"{URL} must contain {name}; there is no such file")
    return member.read()
