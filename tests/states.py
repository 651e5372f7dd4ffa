"""Random adapter states of shapes that catch transposition: no layer is square."""

from __future__ import annotations

import torch

from flwr_decaf.lora import State

SHAPES = {"q": (5, 9), "v": (5, 9), "up": (12, 7)}  # layer -> (d_out, d_in)


def lora_state(
    seed: int,
    rank: int = 3,
    shapes: dict[str, tuple[int, int]] = SHAPES,
    dtype: torch.dtype = torch.float64,
    head: bool = True,
) -> State:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    state: State = {}
    for layer, (d_out, d_in) in shapes.items():
        state[f"model.{layer}.lora_A.weight"] = draw(rank, d_in)
        state[f"model.{layer}.lora_B.weight"] = draw(d_out, rank)
    if head:
        state["model.classifier.weight"] = draw(4, 6)
    return state


def share_a(states: list[State]) -> list[State]:
    """Give all states the first one's A, as under DLoRA-FA."""
    first = {name: x for name, x in states[0].items() if "lora_A" in name}
    return [{name: first.get(name, x) for name, x in state.items()} for state in states]


def dense_products(state: State) -> dict[str, torch.Tensor]:
    """Multiply every layer out, independently of the package."""
    layers = {name.split(".lora_")[0] for name in state if ".lora_" in name}
    return {
        layer: state[f"{layer}.lora_B.weight"].double() @ state[f"{layer}.lora_A.weight"].double()
        for layer in sorted(layers)
    }


def mean_products(states: list[State], weights: list[float]) -> dict[str, torch.Tensor]:
    products = [dense_products(state) for state in states]
    return {
        layer: sum(w * p[layer] for w, p in zip(weights, products, strict=True))
        for layer in products[0]
    }
