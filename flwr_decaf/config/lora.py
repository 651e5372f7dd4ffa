"""The section for the adapter."""

from __future__ import annotations

import re
from dataclasses import dataclass

from flwr_decaf.checks import Check, above, at_least, numbers_by_name, one_of, share, whole_numbers
from flwr_decaf.config.setting import setting
from flwr_decaf.text import split_list


@dataclass(frozen=True)
class Lora:
    """The adapter, in PEFT's terms.

    The product of the factors is scaled by alpha / rank, or with ``use-rslora`` by
    alpha / sqrt(rank).
    """

    rank: int = setting(8, "Rank of the factors A and B.", at_least(1, "the papers use 2 to 16"))
    ranks: str = setting(
        "",
        "Ranks of the nodes, used in turn, of at most lora.rank (decaf); empty gives all nodes "
        "lora.rank. The scale is that of lora.rank at every node.",
        Check(
            "be integers >= 1, separated by commas, or empty",
            lambda value: all(part.isdecimal() and int(part) for part in split_list(value)),
            'write e.g. "2, 4, 8"',
        ),
        many=True,
    )
    alpha: float = setting(
        16.0,
        "Numerator of the adapter's scale, alpha / rank.",
        above(0, "twice the rank is common"),
    )
    use_rslora: bool = setting(False, "Scale the adapter by alpha / sqrt(rank) instead (rsLoRA).")
    rank_pattern: str = setting(
        "",
        "Ranks of layers that differ from lora.rank, by the ends of their names or a regular "
        "expression, as a JSON object.",
        numbers_by_name('{"layer.11.attention.self.query": 16}', whole=True),
    )
    alpha_pattern: str = setting(
        "",
        "Values of alpha of layers that differ from lora.alpha, as for lora.rank-pattern.",
        numbers_by_name('{"layer.11.attention.self.query": 32}'),
    )
    use_dora: bool = setting(
        False,
        "Also train the norm of each row of an adapted weight matrix (DoRA); not for rules that "
        "mix products.",
    )
    init_lora_weights: str = setting(
        "default",
        "Initialization of the factors; pissa, pissa_niter_N and olora take them from the base.",
        Check(
            "be default, gaussian, pissa, pissa_niter_N with a number N, or olora",
            lambda value: bool(re.fullmatch(r"default|gaussian|olora|pissa(_niter_\d+)?", value)),
            "default draws A at random and sets B to 0",
        ),
    )
    bias: str = setting(
        "none",
        "Biases of the base that are trained and exchanged: none, those of adapted layers "
        "(lora_only), or all.",
        one_of(["none", "lora_only", "all"]),
    )
    dropout: float = setting(0.0, "Dropout on the adapter's inputs.", share("0.1 is common"))
    target_modules: str = setting(
        "query,value",
        "Names of the layers that get an adapter, separated by commas; empty leaves the "
        "choice to PEFT.",
        many=True,
    )
    layers_to_transform: str = setting(
        "",
        "Numbers of the transformer layers that get an adapter, separated by commas; empty "
        "selects all.",
        whole_numbers("6, 7, 8, 9, 10, 11"),
        many=True,
    )
    encoder: str = setting(
        "both", "Encoders of CLIP that get an adapter.", one_of(["both", "vision", "text"])
    )
    modules_to_save: str = setting(
        "",
        "Names of modules that are trained in full, in addition to the adapter, separated by "
        "commas.",
        many=True,
    )

    @property
    def ranks_in_turn(self) -> list[int]:
        """Ranks of the nodes; empty if all have ``rank``."""
        return [int(rank) for rank in split_list(self.ranks)]
