"""Rows as tokens of a prompt and of its response, in a model's own chat format.

A row is filled into ``data.prompt`` and ``data.response``, or is a conversation whose last turn of
the assistant is the response (``data.messages-column``). Where the tokenizer has a chat template,
both are put into it; an empty prompt is plain language modelling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from jinja2 import TemplateError

from flwr_decaf.data.sources import require_columns
from flwr_decaf.data.templates import columns_of, fill

if TYPE_CHECKING:
    from flwr_decaf.config import Data

Turn = Mapping[str, str]
Tokens = list[int]


@dataclass(frozen=True)
class Dialogue:
    """How the rows of a data set become tokens.

    Attributes
    ----------
    tokenizer : PreTrainedTokenizerBase
        Its chat template is used if it has one.
    data : config.Data
        Templates, columns, and ``max_length``.
    labels : sequence of str
        Names of the classes; a template gets these, not their numbers.
    """

    tokenizer: Any
    data: Data
    labels: Sequence[str]

    def check(self, rows: Dataset) -> None:
        """Require the columns that the settings name.

        Raises
        ------
        ValueError
            In one line.
        """
        data = self.data
        if data.messages_column:
            require_columns("data.messages-column", [data.messages_column], rows, data)
            return
        for key, template in (("data.prompt", data.prompt), ("data.response", data.response)):
            named = ("label" if c == data.label_column else c for c in columns_of(template))
            require_columns(f"{key}, in braces,", named, rows, data)

    def choices(self) -> list[Tokens]:
        """Encode all classes as responses, if the response is the class and nothing else."""
        named = ("{label}", f"{{{self.data.label_column}}}")
        if self.data.messages_column or self.data.response.strip() not in named:
            return []
        prompt: list[Turn] = [_user("?")] if self.data.prompt else []
        given = ({"label": name, self.data.label_column: name} for name in self.labels)
        return [self._tokens(prompt, fill(self.data.response, names))[1] for names in given]

    def encode(self, row: Mapping[str, Any], room: int) -> tuple[Tokens, Tokens]:
        """Encode a row as prompt and response, ``data.max_length`` tokens or fewer together.

        Too long a response is cut at its end, but not to less than half of the length; the prompt
        is cut at its start, to leave place for ``room`` tokens or the response: at its end a chat
        template says whose turn it is.
        """
        prompt, response = self._tokens(*self._conversation(row))
        limit = self.data.max_length
        response = response[: max(limit - len(prompt), limit // 2, room)]
        left = max(limit - max(len(response), room), 2)
        start = prompt[:1]  # what begins a text, for most tokenizers
        return prompt if len(prompt) <= left else start + prompt[1 - left :], response

    def _conversation(self, row: Mapping[str, Any]) -> tuple[Sequence[Turn], str]:
        """Get the turns before the response, none for an empty prompt, and the response."""
        data = self.data
        if data.messages_column:
            return _last_answer(row[data.messages_column])
        if self.labels:
            name = self.labels[row["label"]]
            row = {**row, "label": name, data.label_column: name}
        prompt = fill(data.prompt, row)
        return [_user(prompt)] if prompt else [], fill(data.response, row)

    def _tokens(self, turns: Sequence[Turn], response: str) -> tuple[Tokens, Tokens]:
        """Encode what comes before the response, and the response with the end of its turn."""
        tokenizer = self.tokenizer
        if not turns:
            start = tokenizer.bos_token or tokenizer.eos_token  # else the first token has no loss
            texts = start, response + tokenizer.eos_token
        elif tokenizer.chat_template is None:
            before = "".join(f"{turn['content']}\n" for turn in turns)
            texts = (tokenizer.bos_token or "") + before, response + tokenizer.eos_token
        else:
            texts = _in_template(tokenizer, turns, response)
        before, after = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
        return before, after


def _user(text: str) -> Turn:
    return {"role": "user", "content": text}


def _last_answer(turns: Sequence[Turn]) -> tuple[Sequence[Turn], str]:
    last = max((i for i, turn in enumerate(turns) if turn["role"] == "assistant"), default=0)
    if last == 0:
        raise ValueError(
            "data.messages-column must hold conversations in which the assistant answers; got the "
            f"roles {[turn['role'] for turn in turns]}; leave such rows out"
        )
    return turns[:last], turns[last]["content"]


def _in_template(tokenizer: Any, turns: Sequence[Turn], response: str) -> tuple[str, str]:
    answer = {"role": "assistant", "content": response}
    try:
        before = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template([*turns, answer], tokenize=False)
    except TemplateError as error:  # it refuses roles or their order
        raise ValueError(
            "data.messages-column must hold turns that the model's chat template takes; got the "
            f"roles {[turn['role'] for turn in turns]} ({error}); leave such rows out"
        ) from error
    if not whole.startswith(before):
        raise ValueError(
            "model.name must have a chat template in which a response follows its prompt; this one "
            "changes the prompt; take another model"
        )
    return before, whole.removeprefix(before)
