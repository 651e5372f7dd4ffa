"""DeCAF's mixing of a whole adapter, compared with DLoRA and with forming the dense product.

    python -m benchmarks.mixing [--large]

* ``peft``: ``add_weighted_adapter(combination_type="svd")`` on the same adapters.
* ``dense``: the SVD of the averaged product, as in the papers' code.
* ``dlora``: plain averaging of the same factors, without an SVD.
* ``qr``: the factored SVD through QR decompositions in fp32 instead of Gram matrices in fp64.

Everything runs on one thread, as on a node. Our mix and DLoRA are timed on all layers of a model;
peft and the dense SVD are timed once per shape and multiplied by the number of layers, since their
time depends only on the shape. ``--large`` includes them at 4096, which takes minutes.
"""

from __future__ import annotations

import math
import sys
from functools import cache
from typing import NamedTuple

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from benchmarks.measure import busy_cores, report, time_alternately
from flwr_decaf.lora import State, pairs, product
from flwr_decaf.rules import RULES
from flwr_decaf.rules.truncated_svd import truncated_svd

LARGE = 4096 if "--large" in sys.argv else 1024  # largest width at which the dense alternatives run


class Case(NamedTuple):
    """A model's adapted layers as (count, d_out, d_in), and the states that are mixed."""

    model: str
    layers: tuple[tuple[int, int, int], ...]
    states: int
    rank: int
    dtype: torch.dtype = torch.float32


MINILM, CLIP = ((12, 384, 384),), ((36, 768, 768),)
ROBERTA, LLAMA7 = ((48, 1024, 1024),), ((64, 4096, 4096),)
LLAMA70 = ((80, 8192, 8192), (80, 1024, 8192))
CASES = [
    *(Case("MiniLM", MINILM, 3, rank) for rank in (2, 8, 64)),
    Case("MiniLM", MINILM, 10, 8),
    *(Case("CLIP ViT-B/16", CLIP, 3, rank) for rank in (2, 8, 64)),
    Case("CLIP ViT-B/16", CLIP, 10, 2),
    Case("CLIP ViT-B/16", CLIP, 3, 2, torch.bfloat16),
    *(Case("RoBERTa-large", ROBERTA, states, 8) for states in (3, 10)),
    *(Case("LLaMA-2-7B", LLAMA7, 3, rank) for rank in (8, 64)),
    Case("LLaMA-2-7B", LLAMA7, 10, 8),
    Case("LLaMA-2-7B", LLAMA7, 3, 8, torch.bfloat16),
    Case("LLaMA-2-70B", LLAMA70, 3, 8),
]


def adapter(case: Case, seed: int) -> State:
    """Draw a random adapter with the shapes of a case."""
    torch.manual_seed(seed)
    state: State = {}
    for kind, (count, d_out, d_in) in enumerate(case.layers):
        for layer in range(count):
            name = f"layer.{layer}.{kind}.lora_{{}}.weight"
            state[name.format("A")] = torch.randn(case.rank, d_in).to(case.dtype)
            state[name.format("B")] = torch.randn(d_out, case.rank).to(case.dtype)
    return state


@cache
def dense_seconds(d_out: int, d_in: int, dtype: torch.dtype) -> dict[str, float | None]:
    """Time one layer by peft and by the plain dense SVD, mixing three adapters of rank 8."""
    if d_out * d_in > LARGE * LARGE:
        return {"peft": None, "dense": None}
    base = nn.Sequential()
    base.add_module("layer", nn.Linear(d_in, d_out, bias=False).to(dtype))
    config = LoraConfig(r=8, lora_alpha=8, target_modules=["layer"], init_lora_weights=False)
    model = get_peft_model(base, config, adapter_name="0")
    for name in ("1", "2"):
        model.add_adapter(name, config)
    mixed: list[str] = []

    def by_peft() -> None:
        mixed.append(f"mixed{len(mixed)}")
        model.add_weighted_adapter(
            ["0", "1", "2"], [1 / 3] * 3, mixed[-1], combination_type="svd", svd_rank=8
        )

    average = torch.randn(d_out, d_in)
    ways = {
        "peft": by_peft,
        "dense": lambda: torch.linalg.svd(average, full_matrices=False),
    }
    return {**time_alternately(ways, repeats=3 if d_in <= 1024 else 1)}


def qr_svd(left: Tensor, right: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the factored SVD from QR decompositions, in the precision of the factors."""
    q_left, r_left = torch.linalg.qr(left)
    q_right, r_right = torch.linalg.qr(right.mT)
    u, s, vh = torch.linalg.svd(r_left @ r_right.mT, full_matrices=False)
    return q_left @ u[..., :rank], s[..., :rank], vh[..., :rank, :] @ q_right.mT


def errors(decades: float) -> tuple[float, float]:
    """Compare both methods on fp32 factors for singular values that span some decades.

    Returns
    -------
    tuple of float
        Relative errors of the smallest singular value kept, by QR and by Gram matrices.
    """
    torch.manual_seed(0)
    values = torch.logspace(0, -decades, 24, dtype=torch.float64)
    left = torch.linalg.qr(torch.randn(1, 768, 24, dtype=torch.float64))[0] * values
    right = torch.linalg.qr(torch.randn(1, 768, 24, dtype=torch.float64))[0].mT
    exact = values[7]
    svds = (f(left.float(), right.float(), 8)[1][0, 7] for f in (qr_svd, truncated_svd))
    return tuple(float((s.double() - exact).abs() / exact) for s in svds)  # type: ignore[return-value]


def compare(case: Case) -> dict[str, object]:
    """Time all alternatives in one case."""
    states = [adapter(case, seed) for seed in range(case.states)]
    weights = [1 / case.states] * case.states
    factorize, average = RULES["factorize"], RULES["average"]
    pair = pairs(states[0])[0]
    stacked = [
        torch.cat([state[pair.b].float() / case.states for state in states], dim=1)[None],
        torch.cat([state[pair.a].float() for state in states], dim=0)[None],
    ]
    seconds = time_alternately(
        {
            "ours": lambda: factorize(states, weights),
            "dlora": lambda: average(states, weights),
            "qr": lambda: qr_svd(stacked[0], stacked[1], case.rank),
            "gram": lambda: truncated_svd(stacked[0], stacked[1], case.rank),
        },
        repeats=5,
    )
    dense = {"peft": 0.0, "dense": 0.0}
    for count, d_out, d_in in case.layers:
        for way, taken in dense_seconds(d_out, d_in, case.dtype).items():
            dense[way] = dense[way] + count * taken if taken is not None else float("nan")
    known = {way: None if math.isnan(taken) else taken for way, taken in dense.items()}
    mixed = factorize(states, weights)
    exact = sum(product({k: x.double() for k, x in s.items()}, pair) for s in states) / case.states
    best = torch.linalg.svdvals(exact)[case.rank :].norm() if case.layers[0][1] <= 1024 else None
    ours = product({k: x.double() for k, x in mixed.items()}, pair)
    return {
        "model": case.model, "states": case.states, "rank": case.rank,
        "dtype": str(case.dtype).removeprefix("torch."),
        "ours-ms": 1e3 * seconds["ours"],
        "dlora-ms": 1e3 * seconds["dlora"],
        **{f"{way}-s": taken for way, taken in known.items()},
        **{f"{way}/ours": taken and taken / seconds["ours"] for way, taken in known.items()},
        "ours/dlora": seconds["ours"] / seconds["dlora"],
        "error/best": best and float((ours - exact).norm() / best),
        "qr/gram": seconds["qr"] / seconds["gram"],
    }  # fmt: skip


def main() -> None:
    """Measure all cases, print them, and save them as JSON."""
    busy = busy_cores()
    torch.set_num_threads(1)
    rows = [compare(case) for case in CASES]
    report("mixing", "DeCAF's mixing of a whole adapter, one thread", rows, busy)
    smallest = [
        dict(zip(("decades", "qr-error", "gram-error"), (d, *errors(d)), strict=True))
        for d in (0.0, 6.0, 12.0, 18.0)
    ]
    report("mixing-gram", "Smallest singular value kept, fp32 against fp64", smallest, busy)


if __name__ == "__main__":
    main()
