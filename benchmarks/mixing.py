"""How much faster the factored SVD of DeCAF's mix is than the dense one, layer by layer.

    python -m benchmarks.mixing

Both ways start from the same factors and end with rank-r factors; the dense way forms the
(d_out, d_in) product, as ``peft``'s ``combination_type="svd"`` does. Each figure is the median of
repeated runs that alternate between the two, on one thread.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from flwr_decaf.rules.truncated_svd import truncated_svd

RESULT = Path(__file__).parent / "results" / "mixing.json"
CASES = [  # d_out, d_in, states mixed, rank
    (384, 384, 3, 8),
    (768, 768, 3, 4),
    (768, 3072, 3, 8),
    (768, 3072, 10, 16),
    (2048, 2048, 3, 8),
]


def dense_svd(left: Tensor, right: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Factorize the product by way of the product."""
    u, s, vh = torch.linalg.svd(left @ right, full_matrices=False)
    return u[..., :rank], s[..., :rank], vh[..., :rank, :]


def seconds(function: Callable[..., object], *arguments: object) -> float:
    """Time one call."""
    started = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - started


def compare(d_out: int, d_in: int, states: int, rank: int, repeats: int = 5) -> dict[str, float]:
    """Time both ways on one layer, and how far their products are apart."""
    torch.manual_seed(0)
    left = torch.randn(1, d_out, states * rank)
    right = torch.randn(1, states * rank, d_in)
    times: dict[str, list[float]] = {"factored": [], "dense": []}
    for _ in range(repeats):
        times["factored"].append(seconds(truncated_svd, left, right, rank))
        times["dense"].append(seconds(dense_svd, left, right, rank))
    ours, theirs = (u * s.unsqueeze(-2) @ vh for u, s, vh in
                    (truncated_svd(left, right, rank), dense_svd(left, right, rank)))  # fmt: skip
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "d_out": d_out, "d_in": d_in, "states": states, "rank": rank,
        "factored-ms": 1e3 * medians["factored"], "dense-ms": 1e3 * medians["dense"],
        "ratio": medians["dense"] / medians["factored"],
        "relative-difference": float((ours - theirs).norm() / theirs.norm()),
    }  # fmt: skip


def main() -> None:
    """Measure all cases, print them, and keep them as JSON."""
    torch.set_num_threads(1)
    compare(64, 64, 2, 4)  # warm up
    results = [compare(*case) for case in CASES]
    table = Table(title="DeCAF's mix of one layer, fp32, one thread")
    for heading in ("layer", "states", "rank", "factored", "dense", "ratio", "difference"):
        table.add_column(heading, justify="right")
    for row in results:
        table.add_row(
            f"{row['d_out']} x {row['d_in']}", f"{row['states']}", f"{row['rank']}",
            f"{row['factored-ms']:.2f} ms", f"{row['dense-ms']:.0f} ms", f"{row['ratio']:.0f}",
            f"{row['relative-difference']:.0e}",
        )  # fmt: skip
    Console().print(table)
    RESULT.parent.mkdir(exist_ok=True)
    content = {"machine": platform.machine(), "torch": torch.__version__, "cases": results}
    RESULT.write_text(json.dumps(content, indent=2) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
