"""Raw text -> token ids, in training and in generation alike.

Only the markers that `prompts.py` sets become special tokens. Rows are written by models: a special token that one of them spells stays
text, so that no row ends a sequence in its middle. Other text gets the ids that the tokenizer gives it.
"""

import re
from functools import cached_property
from typing import Any

from caco_ray.errors import ModelError
from caco_ray.prompts import END, START


class RawText:
    """What a tokenizer (of transformers) makes of raw prompts. `start` are the ids that it puts before any text."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.start = start_ids(tokenizer)
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        foreign = [re.escape(str(token)) for token in added if token.special and str(token) not in (START, END)]
        self._foreign = re.compile("|".join(foreign)) if foreign else None

    def ids(self, text: str) -> list[int]:
        """Token ids of a piece of text, without `start`."""
        if self._foreign is None or not self._foreign.search(text):
            return self._encode(text)
        parts = re.split(f"({re.escape(START)}|{re.escape(END)})", text)
        return [token for part in parts if part for token in self._encode(part, split_special_tokens=part not in (START, END))]

    def last_ids(self, text: str) -> list[int]:
        """Of the last piece of a learned sequence: an `END` that is not the tokenizer's own end gives way to that one.

        Raises:
            ModelError: it has none.
        """
        if not text.endswith(END) or self._end == END:
            return self.ids(text)
        return [*self.ids(text.removesuffix(END)), self._tokenizer.convert_tokens_to_ids(self._end)]

    @cached_property
    def _end(self) -> str:
        return turn_end(self._tokenizer)

    def _encode(self, text: str, **options: bool) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False, **options).input_ids)


def start_ids(tokenizer: Any) -> list[int]:
    """What the tokenizer puts before raw text: nothing, or the BOS token."""
    bare = tokenizer("x", add_special_tokens=False).input_ids
    full = tokenizer("x", add_special_tokens=True).input_ids
    return list(full[: full.index(bare[0])]) if bare[0] in full else []


def turn_end(tokenizer: Any) -> str:
    """What ends a learned sequence, as one token: the tokenizer's own end, or `prompts.END` where it has none.

    A base that has `END` in its vocabulary may never have seen it (those of Qwen2.5 end in <|endoftext|>): adapters, which leave embeddings
    and head as they are, would not learn to write it, nor to stop (https://github.com/QwenLM/Qwen3/issues/927). Limit: turns inside a
    sequence end in `END` whatever the base, so that a sampler that learns to reverse as well may go on to the question.

    Raises:
        ModelError: it has neither.
    """
    if tokenizer.eos_token is not None:
        return str(tokenizer.eos_token)
    token = tokenizer.convert_tokens_to_ids(END)
    if token != tokenizer.unk_token_id and tokenizer(f"x{END}", add_special_tokens=False).input_ids[-1] == token:
        return END
    raise ModelError(f"{tokenizer.name_or_path}: its tokenizer has neither the token {END} nor an eos_token: nothing would end a reply")
