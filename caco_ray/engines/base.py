"""The contract of every engine: text in, completions out, from any number of threads at once.

A row never raises: what is wrong with one prompt is a completion with `finish_reason` "prompt_too_long" or "error". What is wrong
with the engine raises `EngineError`: none of the rows that it held is at fault.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from caco_ray.config import SamplingConfig

Messages = list[dict[str, str]]  # chat messages with `role` and `content`
Prompt = str | Messages | list[int]  # raw text, chat messages, or token ids
FinishReason = Literal["stop", "length", "prompt_too_long", "error"]


@dataclass(frozen=True)
class Completion:
    """One sample for one prompt. `error` says what went wrong where `finish_reason` is "error", else it is None.

    Without the stop string that ended it and without special tokens. Counts are in the engine's own tokens. `stop_reason`: the stop
    string or token that ended it; None where the model ended it itself, it was cut off, or the engine does not tell.
    """

    text: str
    finish_reason: FinishReason
    n_prompt_tokens: int
    n_tokens: int
    error: str | None = None
    stop_reason: str | None = None


@dataclass(frozen=True)
class EngineStats:
    """Requests that are being worked on or wait for their turn, and tokens of the finished ones so far.

    `cache_queries`, `cache_hits`: prompt tokens looked up and found in the prefix cache; 0 where the engine does not tell.
    """

    running: int = 0
    waiting: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    cache_queries: int = 0
    cache_hits: int = 0


class Engine(Protocol):
    """A loaded model or an endpoint. `model_id` is recorded in each row: it names the weights, not the place they lie in."""

    @property
    def model_id(self) -> str: ...

    def seed_used(self, seed: int) -> int | None:
        """What a sample asked for with `seed` is drawn from: `seed`; the engine's own where requests cannot have one; None: not known."""
        ...

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: SamplingConfig,
        *,
        n: int = 1,
        seeds: Sequence[int] | None = None,
    ) -> list[list[Completion]]:
        """`n` completions for each prompt, in the order of the prompts. Thread-safe: calls share one batch.

        `seeds` has one seed per prompt. How far it makes a sample repeatable is the engine's to say.

        Raises:
            ConfigError: the engine does not know one of the sampling values.
            EngineError: the engine failed or is closed.
        """
        ...

    def stats(self) -> EngineStats: ...

    def close(self) -> None:
        """Free the device, the memory and the processes. A second call does nothing."""
        ...


def failed(message: str, n: int, n_prompt_tokens: int = 0) -> list[Completion]:
    """`n` completions of a row that the engine could not serve."""
    return [Completion("", "error", n_prompt_tokens, 0, error=message)] * n


def too_long(n: int, n_prompt_tokens: int) -> list[Completion]:
    """`n` completions of a prompt that leaves no room in the model's context."""
    return [Completion("", "prompt_too_long", n_prompt_tokens, 0)] * n


def sample_seed(seed: int, index: int) -> int:
    """Seed of the `index`-th sample of a prompt: 31 bits, far from its neighbours', so that seeds 1, 2, 3 share no samples."""
    return (seed + index * 0x9E3779B1) & 0x7FFFFFFF


def check_call(prompts: Sequence[Prompt], n: int, seeds: Sequence[int] | None) -> None:
    """Raise ValueError on a call that no engine can serve: a bug of the caller."""
    if n < 1:
        raise ValueError(f"n={n}: at least one completion per prompt")
    if seeds is not None and len(seeds) != len(prompts):
        raise ValueError(f"{len(seeds)} seeds for {len(prompts)} prompts")


def malformed(prompt: Prompt) -> str | None:
    """What is wrong with the form of a prompt, or None."""
    if not prompt:
        return "the prompt is empty"
    if isinstance(prompt, str) or all(isinstance(part, int) for part in prompt):
        return None
    if all(isinstance(part, dict) and isinstance(part.get("role"), str) and isinstance(part.get("content"), str) for part in prompt):
        return None
    return "a chat prompt is a list of messages, each with a text `role` and `content`"
