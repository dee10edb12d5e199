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
        """Of the last piece of a learned sequence: an `END` that is no token gives way to the tokenizer's own end.

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
    """What ends a learned sequence, as one token: `prompts.END`, or where the tokenizer has no such token, its own end.

    Raises:
        ModelError: it has neither.
    """
    token = tokenizer.convert_tokens_to_ids(END)
    if token != tokenizer.unk_token_id and tokenizer(f"x{END}", add_special_tokens=False).input_ids[-1] == token:
        return END
    if tokenizer.eos_token is None:
        raise ModelError(f"{tokenizer.name_or_path}: its tokenizer has neither the token {END} nor an eos_token: nothing would end a reply")
    return str(tokenizer.eos_token)
