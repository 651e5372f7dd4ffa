"""What nodes with their own rows agree on before round 1: one set of classes, in one order.

The nodes receive it as the setting ``data.classes``, with the settings of every message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from flwr_decaf.config import Config, Data
from flwr_decaf.data.disclosure import check_class_names
from flwr_decaf.data.labels import class_names
from flwr_decaf.data.own_rows import RowFacts
from flwr_decaf.data.sources import common_test, load_rows
from flwr_decaf.text import quoted, split_list

_NAME_A_TEST = "omit it, or name a common test set in data.name"


def agree(config: Config, facts: Mapping[int, RowFacts]) -> Config:
    """Determine the classes of a run whose nodes have their own rows.

    Parameters
    ----------
    config : Config
        Settings of the run.
    facts : mapping of int to RowFacts
        Reports of the nodes, by position.

    Returns
    -------
    Config
        The settings with ``data.classes``: as given or, by default, the sorted union of the nodes'
        classes. If ``data.name`` has no test split, all its rows are the common test set.

    Raises
    ------
    ValueError
        If the classes do not match, or a setting does not apply to such nodes; the message names
        the node and the remedy.
    """
    _refuse_settings(config)
    _check_scored(config.data, facts)
    data = replace(config.data, classes=", ".join(_classes(config, facts)))
    if data.name:
        data = common_test(data)
        _check_common(data, split_list(data.classes))
    return replace(config, data=data)


def _classes(config: Config, facts: Mapping[int, RowFacts]) -> list[str]:
    if not config.data.label_column:
        return []
    for node, one in facts.items():
        try:
            check_class_names(one.classes)
        except ValueError as error:  # nodes check this too, but messages are not trusted
            raise ValueError(f"node {node}: {error}") from error
    listed = split_list(config.data.classes)  # the nodes have checked that they have no others
    if config.topology.is_open and not listed:
        raise ValueError(
            "data.classes must list all classes with topology.membership = open, since nodes that "
            "join later may have others; got ''; list them, separated by commas"
        )
    known = listed or sorted({name for one in facts.values() for name in one.classes})
    if len(known) < 2:
        raise ValueError(
            f"data.label-column must have at least two classes over all nodes; got {quoted(known)}"
            "; name another column, or list all classes in data.classes"
        )
    return known


def _refuse_settings(config: Config) -> None:
    """Refuse settings that need all rows, or test rows, in one place."""
    data, contrastive = config.data, config.model.objective == "contrastive"
    for setting, refused, remedy in (
        ("strategy = centralized", config.strategy == "centralized", "use another strategy"),
        ("data.max-train-samples", data.max_train_samples, "set it to 0"),
        ("data.shots-per-class", data.shots_per_class, "set it to 0"),
        ("evaluate-average", config.evaluate_average and not data.name, _NAME_A_TEST),
        ("model.objective = contrastive", contrastive and not data.name, _NAME_A_TEST),
    ):
        if refused:
            raise ValueError(
                f"{setting} must not be set if nodes have their own rows, which stay with them; "
                f"{remedy}"
            )


def _check_scored(data: Data, facts: Mapping[int, RowFacts]) -> None:
    """Require that each node has rows on which it can be scored."""
    untested = [node for node, one in facts.items() if not one.test]
    if untested and not (data.name or data.local_test_share):
        raise ValueError(
            "data.local-test-share must be > 0 without a common test set; got 0, and node "
            f"{untested[0]} has no test rows of its own; set it to 0.1, name a test-path in "
            "--node-config, or a common test set in data.name"
        )


def _check_common(data: Data, classes: Sequence[str]) -> None:
    """Require that the common test set has all classes, which number the labels of its rows."""
    if not data.label_column:
        return
    every = load_rows(replace(data, classes=""), seed=0)["train"]
    missing = set(classes) - set(class_names(every, data, "data.name"))
    if missing:
        raise ValueError(
            f"data.name must be a common test set with all classes of the nodes; {data.name!r} "
            f"lacks {quoted(sorted(missing))}; name another one, or set data.name to '' for none"
        )
