"""Encoding of rows as tokens of a prompt and its response, in the model's own chat format.

A row fills the templates ``data.prompt`` and ``data.response``, or is a conversation in which the
assistant's last turn is the response (``data.messages-column``). If the tokenizer has a chat
template, it is applied; an empty prompt means plain language modelling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from flwr_decaf.data.templates import fill

if TYPE_CHECKING:
    from flwr_decaf.config import Data

Turn = Mapping[str, str]
Tokens = list[int]


@dataclass(frozen=True)
class Dialogue:
    """Encodes the rows of a data set as tokens.

    Attributes
    ----------
    tokenizer : PreTrainedTokenizerBase
        Its chat template is used if it has one.
    data : config.Data
        Templates, columns, and ``max_length``.
    labels : sequence of str
        Names of the classes, which fill templates in place of their numbers.
    """

    tokenizer: Any
    data: Data
    labels: Sequence[str]

    def choices(self) -> list[Tokens]:
        """Encode all classes as responses; the list is empty unless a response is just a class."""
        named = ("{label}", f"{{{self.data.label_column}}}")
        if self.data.messages_column or self.data.response.strip() not in named:
            return []
        prompt: list[Turn] = [_user("?")] if self.data.prompt else []
        rows = ({"label": name, self.data.label_column: name} for name in self.labels)
        return [self._tokens(prompt, fill(self.data.response, row))[1] for row in rows]

    def encode(self, row: Mapping[str, Any], room: int) -> tuple[Tokens, Tokens]:
        """Encode a row as a prompt and a response of at most ``data.max_length`` tokens in total.

        A long response is truncated at its end, but never to less than half of that length. The
        prompt is truncated at its start, since a chat template says at its end whose turn it is.
        This leaves space for the response, or for ``room`` tokens if these are more.
        """
        prompt, response = self._tokens(*self._conversation(row))
        limit = self.data.max_length
        response = response[: max(limit - len(prompt), limit // 2, room)]
        left = max(limit - max(len(response), room), 2)
        start = prompt[:1]  # the start token, for most tokenizers
        return prompt if len(prompt) <= left else start + prompt[1 - left :], response

    def _conversation(self, row: Mapping[str, Any]) -> tuple[Sequence[Turn], str]:
        """Return the turns before the response (none for an empty prompt), and the response."""
        data = self.data
        if data.messages_column:
            return _last_answer(row[data.messages_column])
        if self.labels:
            name = self.labels[row["label"]]
            row = {**row, "label": name, data.label_column: name}
        prompt = fill(data.prompt, row)
        return [_user(prompt)] if prompt else [], fill(data.response, row)

    def _tokens(self, turns: Sequence[Turn], response: str) -> tuple[Tokens, Tokens]:
        """Encode the turns before the response, and the response with its end-of-turn token."""
        tokenizer = self.tokenizer
        if not turns:
            # Without a start token, the first token of the text would have no loss.
            start = tokenizer.bos_token or tokenizer.eos_token
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
            "data.messages-column must contain conversations in which the assistant answers; got "
            f"the roles {[turn['role'] for turn in turns]}; remove such rows"
        )
    return turns[:last], turns[last]["content"]


def _in_template(tokenizer: Any, turns: Sequence[Turn], response: str) -> tuple[str, str]:
    answer = {"role": "assistant", "content": response}
    try:
        before = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template([*turns, answer], tokenize=False)
    except TemplateError as error:  # a template may reject roles or their order
        raise ValueError(
            "data.messages-column must contain turns that the model's chat template accepts; got "
            f"the roles {[turn['role'] for turn in turns]} ({error}); remove such rows"
        ) from error
    if not whole.startswith(before):
        raise ValueError(
            "model.name must have a chat template in which a response follows its prompt; this one "
            "changes the prompt; use another model"
        )
    return before, whole.removeprefix(before)
