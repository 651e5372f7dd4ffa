"""Encoding of rows as tokens, with SmolLM2's own tokenizer and chat template."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from flwr_decaf.config import Data
from flwr_decaf.data.dialogue import Dialogue
from tests.clients.tasks.test_causal_lm import smollm2_folder

LABELS = ["False", "True"]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(smollm2_folder())


def dialogue(tokenizer, labels=LABELS, **data):
    return Dialogue(tokenizer, Data(max_length=data.pop("max_length", 64), **data), labels)


def test_prompt_and_response_are_put_into_the_chat_template(tokenizer):
    row = {"question": "is {x} set", "label": 1}
    encoder = dialogue(tokenizer, prompt="{question}?", response="It is {label}.")
    prompt, response = map(tokenizer.decode, encoder.encode(row, room=0))
    turns = [{"role": "user", "content": "is {x} set?"}]
    answer = {"role": "assistant", "content": "It is True."}
    assert prompt.endswith("<|im_start|>user\nis {x} set?<|im_end|>\n<|im_start|>assistant\n")
    assert response == "It is True.<|im_end|>\n"
    # Together, they are what the template makes of the whole conversation.
    assert prompt + response == tokenizer.apply_chat_template([*turns, answer], tokenize=False)


def test_without_a_prompt_the_text_is_encoded_as_it_is(tokenizer):
    prompt, response = dialogue(tokenizer).encode({"text": "some text", "label": 0}, room=0)
    assert prompt == [tokenizer.bos_token_id]
    assert tokenizer.decode(response) == f"some text{tokenizer.eos_token}"


def test_without_a_chat_template_the_prompt_is_a_line(tokenizer):
    template, tokenizer.chat_template = tokenizer.chat_template, None
    try:
        encoder = dialogue(tokenizer, prompt="{text}", response="{label}")
        pair = encoder.encode({"text": "so?", "label": 0}, room=0)
    finally:
        tokenizer.chat_template = template
    assert [tokenizer.decode(part) for part in pair] == [
        f"{tokenizer.bos_token}so?\n",
        f"False{tokenizer.eos_token}",
    ]


def test_a_conversation_ends_with_the_last_turn_of_the_assistant(tokenizer):
    turns = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": "bye"},
        {"role": "assistant", "content": "so long"},
        {"role": "user", "content": "?"},
    ]
    talk = dialogue(tokenizer, labels=[], messages_column="messages", max_length=99)
    prompt, response = map(tokenizer.decode, talk.encode({"messages": turns}, room=0))
    assert "hi<|im_end|>\n<|im_start|>user\nbye<|im_end|>\n" in prompt
    assert response == "so long<|im_end|>\n"
    with pytest.raises(ValueError, match=r"data.messages-column must contain .*\['user'\]"):
        talk.encode({"messages": turns[:1]}, room=0)


@pytest.mark.parametrize(
    ("words", "length"), [((5, 5), 64), ((200, 5), 64), ((5, 200), 64), ((200, 200), 65)]
)
def test_truncation_keeps_the_turn_and_half_of_the_response(tokenizer, words, length):
    row = {"a": "one " * words[0], "text": "two " * words[1], "label": 0}
    encoder = dialogue(tokenizer, prompt="{a}", max_length=length)
    prompt, response = encoder.encode(row, room=0)
    whole = dialogue(tokenizer, prompt="{a}", max_length=10_000).encode(row, room=0)
    assert len(prompt) + len(response) == min(sum(map(len, whole)), length)
    assert whole[0][-len(prompt) + 1 :] == prompt[1:]
    assert whole[0][0] == prompt[0]
    assert whole[1][: len(response)] == response
    assert len(response) >= min(len(whole[1]), length // 2)


def test_the_classes_are_choices_if_the_response_is_the_class(tokenizer):
    encoder = dialogue(tokenizer, prompt="{text}", response=" {answer} ", label_column="answer")
    assert [tokenizer.decode(choice) for choice in encoder.choices()] == [
        " False <|im_end|>\n",
        " True <|im_end|>\n",
    ]
    assert dialogue(tokenizer, prompt="{text}", response="It is {label}").choices() == []


def test_the_prompt_leaves_space_for_all_choices(tokenizer):
    row = {"text": "one " * 99, "label": 0}
    prompt, response = dialogue(
        tokenizer, prompt="{text}", response="{label}", max_length=40
    ).encode(row, room=30)
    assert (len(prompt), len(response)) == (10, 3)  # False, the end of the turn, a new line
