from __future__ import annotations

import pytest
from datasets import Dataset

from flwr_decaf.config import Data, Model
from flwr_decaf.data.columns import COLUMNS, check_columns
from flwr_decaf.registries import TASKS

CHAT = {"task": "causal-lm"}
ROWS = Dataset.from_list([{"text": "a", "label": 0}])


def test_every_task_says_which_columns_it_reads():
    assert list(COLUMNS) == list(TASKS)


@pytest.mark.parametrize(
    ("model", "data", "expected"),
    [
        ({}, {"text_column": "a, b"}, {"data.text-column": ["a", "b"]}),
        ({"task": "image-classification"}, {}, {"data.image-column": ["image"]}),
        ({"task": "cnn"}, {"image_column": "img"}, {"data.image-column": ["img"]}),
        ({"task": "clip"}, {}, {"data.image-column": ["image"]}),
        (
            {"task": "clip", "objective": "contrastive"},
            {},
            {"data.image-column": ["image"], "data.text-column": ["text"]},
        ),
        (
            CHAT,
            {"prompt": "{q} of {topic}?", "response": "{a}"},
            {"data.prompt, in braces,": ["q", "topic"], "data.response, in braces,": ["a"]},
        ),
        (CHAT, {"messages_column": "talk"}, {"data.messages-column": ["talk"]}),
    ],
)
def test_the_columns_of_each_task(model, data, expected):
    model = Model(**model)
    assert COLUMNS[model.task](model, Data(**data)) == expected


def test_missing_columns_are_rejected():
    check_columns(Model(**CHAT), Data(prompt="{text} {topic}", label_column="topic"), ROWS)
    for data, message in (
        ({"prompt": "{txt}"}, r"data.prompt, in braces, must name .*'txt'; it has text, label"),
        ({"response": "{answer}"}, r"data.response.*got 'answer'"),
        ({"messages_column": "talk"}, r"data.messages-column must name .*'talk'"),
    ):
        with pytest.raises(ValueError, match=message):
            check_columns(Model(**CHAT), Data(**data), ROWS)
