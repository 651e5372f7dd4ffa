from __future__ import annotations

import math
from itertools import pairwise

import pytest
from sklearn.metrics import accuracy_score, f1_score

from flwr_decaf.clients.tasks.scores import (
    add_up,
    classification_scores,
    count_guesses,
    language_scores,
)

TRUTHS = [0, 0, 1, 2, 2, 2, 4, 4]
GUESSES = [0, 1, 1, 2, 0, 3, 4, 4]


@pytest.mark.parametrize("cuts", [[], [1], [3, 5], list(range(1, 8))])
def test_accuracy_and_f1_agree_with_scikit_learn_for_any_batches(cuts):
    bounds = [0, *cuts, len(TRUTHS)]
    parts = [count_guesses(GUESSES[a:b], TRUTHS[a:b]) for a, b in pairwise(bounds)]
    scores = classification_scores(add_up(parts))
    assert scores["accuracy"] == accuracy_score(TRUTHS, GUESSES)
    assert scores["f1"] == pytest.approx(f1_score(TRUTHS, GUESSES, average="macro"), abs=1e-12)


def test_perplexity_gives_equal_weight_to_tokens_not_batches():
    parts = [{"nll": 2.0, "tokens": 1.0}, {"nll": 4.0, "tokens": 5.0}]
    assert language_scores(add_up(parts)) == {"loss": 1.0, "perplexity": math.e}


def test_scores_of_tokens_and_classes():
    sums = count_guesses([1, 0], [1, 1]) | {"nll": 0.0, "tokens": 2}
    assert language_scores(sums) == {"accuracy": 0.5, "f1": 1 / 3, "loss": 0.0, "perplexity": 1.0}
