"""Saving of a trained model in its library's own format: an adapter for PEFT, or a whole model."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from flwr_decaf.clients.models.adapter import RANDOM, get_adapter
from flwr_decaf.lora import State, factor_of

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def save_model(model: Any, path: Path, base_name: str) -> None:
    """Save a model, or its adapter for the base that ``base_name`` names.

    PiSSA and OLoRA subtract the initial product from the base, and PEFT would repeat this whenever
    it loads the adapter. Such an adapter is saved as a plain one of twice the rank, which is added
    to the unchanged base (see ``added_to_base``). If the ranks of nodes differ, each adapter is
    saved with its own rank and alpha.

    Parameters
    ----------
    model : PeftModel or PreTrainedModel
        The model.
    path : Path
        An existing folder.
    base_name : str
        ``model.name`` as in the settings; PEFT would write the folder on this machine from which
        the base was loaded.
    """
    model.save_pretrained(path)
    if not (path / _CONFIG).exists():
        return
    described = json.loads((path / _CONFIG).read_text(encoding="utf8"))
    if described["init_lora_weights"] not in RANDOM:
        state = added_to_base(load_file(path / _WEIGHTS), model.initial_values)
        save_file(state, path / _WEIGHTS, metadata={"format": "pt"})
        described |= _of_twice_the_rank(described)
    elif not described["rank_pattern"]:
        described |= _of_rank(described, _rank_of(model))
    described["base_model_name_or_path"] = base_name
    (path / _CONFIG).write_text(json.dumps(described, indent=2), encoding="utf8")


def added_to_base(state: State, initial: State) -> State:
    """Concatenate factors with their initial values, whose product was subtracted from the base.

        A' = [A; A_0],   B' = [B, -B_0],   so that   B' A' = B A - B_0 A_0

    Parameters
    ----------
    state : State
        A trained adapter.
    initial : State
        Its initial factors, by the same names; other tensors are not used.

    Returns
    -------
    State
        Factors of twice the rank; dense tensors are those of ``state``.
    """

    def joined(name: str, x: Tensor) -> Tensor:
        match factor_of(name):
            case "A":
                return torch.cat([x, initial[name].to(x)], dim=0)
            case "B":
                return torch.cat([x, -initial[name].to(x)], dim=1)
        return x

    return {name: joined(name, x) for name, x in state.items()}


def _rank_of(model: Any) -> int:
    return next(len(x) for name, x in get_adapter(model).items() if factor_of(name) == "A")


def _of_rank(described: Mapping[str, Any], rank: int) -> dict[str, Any]:
    """Give the factors' own rank, and an alpha with which the scaling stays the same."""
    factor = rank / described["r"]
    if factor == 1:
        return {}
    factor = math.sqrt(factor) if described["use_rslora"] else factor
    return {
        "r": rank,
        "lora_alpha": factor * described["lora_alpha"],
        "alpha_pattern": {name: factor * x for name, x in described["alpha_pattern"].items()},
    }


def _of_twice_the_rank(described: Mapping[str, Any]) -> dict[str, Any]:
    """Double all ranks, and change alpha so that the scaling stays the same."""
    factor = math.sqrt(2) if described["use_rslora"] else 2
    return {
        "init_lora_weights": True,
        "r": 2 * described["r"],
        "lora_alpha": factor * described["lora_alpha"],
        "rank_pattern": {name: 2 * rank for name, rank in described["rank_pattern"].items()},
        "alpha_pattern": {name: factor * x for name, x in described["alpha_pattern"].items()},
    }
