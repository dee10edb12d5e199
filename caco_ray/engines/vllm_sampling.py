"""From our sampling values to vLLM's `SamplingParams`."""

import difflib
from collections.abc import Collection
from typing import Any

from caco_ray.config import SamplingConfig
from caco_ray.errors import ConfigError

_OURS = {*SamplingConfig.model_fields, "output_kind", "n", "seed"}


def sampling_params(sampling: SamplingConfig, tokenizer: Any) -> Any:
    """A special token never shows in the text, so that a stop string which is one has to be watched for as a token.

    Raises:
        ConfigError: vLLM refuses a value, or does not know a field of `extra`.
    """
    from vllm import SamplingParams
    from vllm.exceptions import VLLMClientError
    from vllm.sampling_params import RequestOutputKind

    special = _special_tokens(tokenizer) if sampling.stop else {}
    ours: dict[str, Any] = {
        **sampling.model_dump(exclude={"stop", "extra"}),
        "stop": [stop for stop in sampling.stop if stop not in special],
        "output_kind": RequestOutputKind.FINAL_ONLY,
    }
    check_extra(sampling.extra, SamplingParams.__struct_fields__)
    watched = [special[stop] for stop in sampling.stop if stop in special]
    extra = {**sampling.extra, "stop_token_ids": [*watched, *(sampling.extra.get("stop_token_ids") or ())]}
    try:
        return SamplingParams(**ours, **extra)
    except (VLLMClientError, ValueError, TypeError) as error:
        raise ConfigError(f"sampling: vLLM refuses it: {' '.join(str(error).split())}") from error


def _special_tokens(tokenizer: Any) -> dict[str, int]:
    """Ids of all tokens that are left out of the text, whether or not the tokenizer's map of special tokens names them."""
    added = {str(token): number for number, token in getattr(tokenizer, "added_tokens_decoder", {}).items() if token.special}
    return dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)) | added


def check_extra(extra: dict[str, Any], known: Collection[str]) -> None:
    """Raises ConfigError where `sampling.extra` sets what has a key of its own, or is not among the `known` fields of vLLM."""
    for name in extra:
        if name in _OURS:
            raise ConfigError(f"sampling.extra.{name}: set by a key of its own, not here")
        if name not in known or name.startswith("_"):
            near = difflib.get_close_matches(name, known, n=1)
            raise ConfigError(f"sampling.extra.{name}: vLLM has no such sampling field" + (f"; did you mean {near[0]}?" if near else ""))
