"""Scores of a model, computed from sums over batches of any size."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

Sums = dict[str, float]
_LARGEST = 700.0  # approximately the largest loss whose exponential is finite


def add_up(parts: Iterable[Sums]) -> Sums:
    """Add up sums by name."""
    total: Sums = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0) + value
    return total


def count_guesses(guesses: Sequence[int], truths: Sequence[int]) -> Sums:
    """Count the rows, and how often each class was predicted, was true, and was both."""
    hits = (guess for guess, truth in zip(guesses, truths, strict=True) if guess == truth)
    counts = {"guessed": Counter(guesses), "true": Counter(truths), "hit": Counter(hits)}
    each = {f"{kind} {c}": float(n) for kind, count in counts.items() for c, n in count.items()}
    return {"rows": len(truths), **each}


def classification_scores(sums: Sums) -> dict[str, float]:
    """Turn the counts of ``count_guesses``, and a sum ``loss`` over the rows, into scores.

    Returns
    -------
    dict of str to float
        ``accuracy``; ``f1``, the unweighted mean of 2 hit / (guessed + true) over all classes that
        were predicted or true, as scikit-learn's macro F1; ``loss``, if ``sums`` has it.
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
        ``tokens``, the number of predicted tokens, and ``nll``, the sum of their -log p; optionally
        the counts of ``count_guesses``.

    Returns
    -------
    dict of str to float
        ``loss`` = nll / tokens, in nats, ``perplexity`` = exp(loss), and the scores of
        ``classification_scores`` if there are counts.
    """
    loss = sums["nll"] / sums["tokens"]
    guesses = classification_scores(sums) if "rows" in sums else {}
    perplexity = math.exp(loss) if loss < _LARGEST else math.inf
    return {**guesses, "loss": loss, "perplexity": perplexity}


def clip_scores(sums: Sums) -> dict[str, float]:
    """Turn the counts of ``count_guesses``, and those of retrieved captions, into scores.

    Parameters
    ----------
    sums : Sums
        The counts of ``count_guesses``; optionally ``queries``, the number of images whose caption
        was retrieved, and ``within 1`` and ``within 5``, the numbers of those whose caption is the
        nearest or among the five nearest.

    Returns
    -------
    dict of str to float
        The scores of ``classification_scores``; ``recall-at-1`` and ``recall-at-5`` if there are
        queries.
    """
    queries = sums.get("queries", 0)
    recalls = {f"recall-at-{k}": sums[f"within {k}"] / queries for k in (1, 5)} if queries else {}
    return classification_scores(sums) | recalls
