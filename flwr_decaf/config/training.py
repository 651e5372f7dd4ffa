"""The section for local training."""

from __future__ import annotations

from dataclasses import dataclass

from flwr_decaf.checks import above, at_least, one_of, ratios
from flwr_decaf.config.setting import setting
from flwr_decaf.registries import DEVICES, LEARNING_RATES, PRECISIONS
from flwr_decaf.text import split_list


@dataclass(frozen=True)
class Train:
    """Local training between two exchanges of factors."""

    optimizer: str = setting(
        "adamw", "Name of an optimizer in torch.optim, in lower case: adamw, sgd, rmsprop, ..."
    )
    optimizer_arguments: str = setting(
        "", 'Additional arguments of the optimizer, as a JSON object: {"momentum": 0.9}.'
    )
    learning_rate: float = setting(
        5e-3, "Learning rate, before train.schedule.", above(0, "1e-4 to 5e-3 suit LoRA and AdamW")
    )
    schedule: str = setting("constant", "How the learning rate changes.", one_of(LEARNING_RATES))
    warmup_steps: int = setting(
        0,
        "Number of first steps of the run in which the learning rate rises from 0 "
        "(linear, inverse-sqrt, constant-with-warmup, cosine-with-warmup).",
        at_least(0, "0 starts at the full rate"),
    )
    weight_decay: float = setting(0.01, "Weight decay.", at_least(0, "0 disables it"))
    max_grad_norm: float = setting(
        0.0,
        "Maximum norm of the gradient of a step, to which larger ones are scaled; 0 disables it.",
        at_least(0, "0 disables it, and 1 is common"),
    )
    gradient_accumulation: int = setting(
        1,
        "Number of batches whose gradients are averaged for each optimizer step.",
        at_least(1, "1 takes a step after each batch"),
    )
    gradient_checkpointing: bool = setting(
        False,
        "Recompute the layers in the backward pass instead of keeping their activations, which "
        "takes less memory and more time.",
    )
    optimizer_state: str = setting(
        "fresh",
        "Whether the moments of adamw or adam start afresh in each round or are kept at the node.",
        one_of(["fresh", "kept"]),
    )
    batch_size: int = setting(16, "Number of rows in a batch.", at_least(1, "16 or 32 are common"))
    local_steps: int = setting(
        8, "Optimizer steps of a node in each round.", at_least(1, "8 is the default")
    )
    local_epochs: int = setting(
        0,
        "Passes over a node's rows in each round; replaces train.local-steps unless 0.",
        at_least(0, "0 uses train.local-steps"),
    )
    pretrain_epochs: int = setting(
        0,
        "Passes that each node trains alone before the first exchange (whole models only).",
        at_least(0, "0 starts all nodes from the same model"),
    )
    freeze_head: bool = setting(False, "Keep the classification head at its initialization.")
    device: str = setting(
        "auto", "Device to train on; auto uses a GPU if the client sees one.", one_of(DEVICES)
    )
    precision: str = setting("fp32", "Precision of training, by autocast.", one_of(PRECISIONS))
    threads: int = setting(
        1,
        "CPU threads of a client; 0 leaves the choice to PyTorch.",
        at_least(0, "0 leaves it to PyTorch, which may change the last bits of the results"),
    )
    slowdown: str = setting(
        "",
        "Factors by which the nodes are slowed down, used in turn, for studies: after its steps, a "
        "node sleeps for (factor - 1) times their duration. In a simulation, it keeps its actor.",
        ratios("1, 1, 1, 1, 5"),
        many=True,
    )

    def slowdown_of(self, node: int) -> float:
        """Return the factor by which the node at a position is slowed down; by default 1."""
        factors = [float(factor) for factor in split_list(self.slowdown)]
        return factors[node % len(factors)] if factors else 1.0
