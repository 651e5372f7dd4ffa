"""The model card of each adapter that a run saves: how it was trained, and its scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flwr_decaf.config import Config, Data, Lora
from flwr_decaf.config.network import graph_in_words
from flwr_decaf.config.parsing import flatten
from flwr_decaf.runs.score import score_of
from flwr_decaf.text import is_hub_id

Line = Mapping[str, Any]


def last_evaluations(metrics: Iterable[Line]) -> dict[str, Line]:
    """Find the last evaluation after training of each ``node-<i>``, and of the ``global`` model.

    For the global model, it is the evaluation of any node, because all nodes have the same score on
    the common test. The scores on a node's own test do not describe the global model.
    """
    last: dict[str, Line] = {}
    for line in metrics:
        if line["phase"] == "evaluate" and line["round"] > 0:
            last[f"node-{line['node']}"] = last["global"] = line
    return last


def model_card(
    name: str, config: Config, nodes: int, evaluation: Line, own_rows: bool = False
) -> str:
    """Write a model card, in Markdown with the front matter that the Hugging Face Hub reads.

    The card replaces PEFT's own, a template with blanks that contains a path of this machine.

    Parameters
    ----------
    name : str
        ``node-<i>``, or ``global``.
    config : Config
        Settings of the run.
    nodes : int
        Number of nodes.
    evaluation : mapping
        A line of ``metrics.jsonl``; empty if the adapter was not evaluated.
    own_rows : bool
        Whether each node trained on its own rows; by default False.
    """
    whole = config.model.task == "cnn"
    kind = "model" if whole else "LoRA adapter"
    peers = f"`{config.strategy}`"
    peers += f" on {nodes} nodes" if config.strategy != "centralized" else ""
    if graph := graph_in_words(flatten(config)):
        peers += f", {graph}"
    base = _without_folder(config.model.name)
    facts = {
        "base model": "trained from scratch" if whole else f"`{base}`",
        "data": "each node's own" if own_rows else _shares(config.data),
        "trained by": f"{peers}, {config.num_server_rounds} rounds, seed {config.seed}",
        **({} if whole else _adapter(config.lora)),
        **scores_in_words(name, evaluation),
    }
    rows = "\n".join(f"| {what} | {value} |" for what, value in facts.items())
    made = f"Made with flwr-decaf {version('flwr-decaf')}; the run's `run.json` has all settings."
    front = front_matter(config)
    return f"---\n{front}---\n\n# {name}: {kind}\n\n| | |\n| --- | --- |\n{rows}\n\n{made}\n"


def _shares(data: Data) -> str:
    return f"`{_without_folder(data.name)}`, {data.partitioner} over the nodes"


def _adapter(lora: Lora) -> dict[str, str]:
    facts = {
        "rank, alpha": f"{lora.rank}, {lora.alpha:g}",
        "ranks of the nodes, in turn": _code(lora.ranks),
        "ranks of some layers": _code(lora.rank_pattern),
        "alpha of some layers": _code(lora.alpha_pattern),
        "scaling": "alpha / sqrt(rank) (rsLoRA)" if lora.use_rslora else "",
        "norms of weights": "trained (DoRA)" if lora.use_dora else "",
        "initialization": _initialization(lora),
        "trained biases": "" if lora.bias == "none" else lora.bias,
    }
    return {what: value for what, value in facts.items() if value}


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _initialization(lora: Lora) -> str:
    match lora.init_lora_weights:
        case "default":
            return ""
        case "gaussian":
            return "gaussian"
    # See clients/models/saving.py.
    return f"{lora.init_lora_weights}; saved as an update of the unchanged base, of twice the rank"


def _without_folder(name: str) -> str:
    # Paths of this machine mean nothing to a reader.
    return Path(name).name if Path(name).exists() else name


def front_matter(config: Config) -> str:
    """Write what the Hub reads from a card: the library, the base model and tags, as YAML."""
    whole = config.model.task == "cnn"
    tags = ["decentralized-learning", "federated-learning", "flower", *([] if whole else ["lora"])]
    lines = ["tags:", *(f"- {tag}" for tag in tags)]
    if not whole:
        lines.insert(0, "library_name: peft")
        # The Hub refuses base models that it does not have, such as folders and packages.
        if is_hub_id(config.model.name):
            lines.insert(0, f"base_model: {config.model.name}")
    return "\n".join(lines) + "\n"


def scores_in_words(name: str, evaluation: Line) -> dict[str, str]:
    """Describe the scores of a model on the common test set and on its own."""
    score = score_of([evaluation])
    if score is None:
        return {}
    keys = {} if score.is_local else {"common test": score.name}
    if name != "global":  # each node has a test set of its own
        keys["own test"] = score.local
    return {
        f"{score.name}, {where}, after round {evaluation['round']}": f"{evaluation[key]:.3f}"
        for where, key in keys.items()
        if key in evaluation
    }
