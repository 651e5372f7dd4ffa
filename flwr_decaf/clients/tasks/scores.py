"""Scores of a model, from sums that batches of any size add up to."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

Sums = dict[str, float]
_LARGEST = 700.0  # its exponential is still a float


def add_up(parts: Iterable[Sums]) -> Sums:
    """Add sums up, name by name."""
    total: Sums = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0) + value
    return total


def count_guesses(guesses: Sequence[int], truths: Sequence[int]) -> Sums:
    """Count rows, and for each class how often it was guessed, true, and both."""
    hits = (guess for guess, truth in zip(guesses, truths, strict=True) if guess == truth)
    counts = {"guessed": Counter(guesses), "true": Counter(truths), "hit": Counter(hits)}
    each = {f"{kind} {c}": float(n) for kind, count in counts.items() for c, n in count.items()}
    return {"rows": len(truths), **each}


def classification_scores(sums: Sums) -> dict[str, float]:
    """Turn the counts of ``count_guesses``, and a sum ``loss`` over the rows, into scores.

    Returns
    -------
    dict of str to float
        ``accuracy``; ``f1``, the unweighted mean over the classes (those guessed or true) of
        2 hit / (guessed + true), scikit-learn's macro F1; ``loss``, if it was summed up.
    """
    classes = {name.split()[1] for name in sums if name.startswith(("guessed ", "true "))}
    hits = {c: sums.get(f"hit {c}", 0) for c in classes}
    f1 = [2 * hits[c] / (sums.get(f"guessed {c}", 0) + sums.get(f"true {c}", 0)) for c in classes]
    scores = {"accuracy": sum(hits.values()) / sums["rows"], "f1": math.fsum(f1) / len(f1)}
    return scores | ({"loss": sums["loss"] / sums["rows"]} if "loss" in sums else {})


def language_scores(sums: Sums) -> dict[str, float]:
    """Turn sums over tokens into scores.

    Parameters
    ----------
    sums : Sums
        ``tokens``, how many were predicted, and ``surprise``, the sum of their -log p. With
        ``rows``, the counts of ``count_guesses`` beside.

    Returns
    -------
    dict of str to float
        ``loss`` = surprise / tokens, in nats, and ``perplexity`` = exp(loss); and the scores of
        the guesses, if there are any.
    """
    loss = sums["surprise"] / sums["tokens"]
    guesses = classification_scores(sums) if "rows" in sums else {}
    perplexity = math.exp(loss) if loss < _LARGEST else math.inf
    return {**guesses, "loss": loss, "perplexity": perplexity}


def clip_scores(sums: Sums) -> dict[str, float]:
    """Turn the counts of ``count_guesses`` into scores, and those of captions if there are any.

    Parameters
    ----------
    sums : Sums
        ``asked``, the pictures whose caption was looked for, ``within 1`` and ``within 5``, those
        whose caption was the nearest, or among the five nearest.

    Returns
    -------
    dict of str to float
        Scores of the guesses, ``recall-at-1`` and ``recall-at-5``.
    """
    asked = sums.get("asked", 0)
    recalls = {f"recall-at-{k}": sums[f"within {k}"] / asked for k in (1, 5)} if asked else {}
    return classification_scores(sums) | recalls
