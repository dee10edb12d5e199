"""From our sampling values to vLLM's `SamplingParams`."""

from collections.abc import Collection
from typing import Any

from caco_ray.config import SamplingConfig
from caco_ray.engines.vllm_names import check_known, sampling_type
from caco_ray.errors import ConfigError

_OURS = {*SamplingConfig.model_fields, "output_kind", "n", "seed"}


def sampling_params(sampling: SamplingConfig, tokenizer: Any) -> Any:
    """A special token never shows in the text, so that a stop string which is one has to be watched for as a token.

    Raises:
        ConfigError: vLLM refuses a value, or does not know a field of `extra`.
    """
    import msgspec
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
        sent = msgspec.msgpack.encode(SamplingParams(**ours, **extra))
        # As vLLM's process reads it, which hangs where it cannot. Nested mappings become what they stand for.
        return msgspec.msgpack.decode(sent, type=SamplingParams)
    except (VLLMClientError, ValueError, TypeError) as error:
        raise ConfigError(f"sampling: vLLM refuses it: {' '.join(str(error).split())}") from error


def _special_tokens(tokenizer: Any) -> dict[str, int]:
    """Ids of all tokens that are left out of the text, whether or not the tokenizer's map of special tokens names them."""
    added = {str(token): number for number, token in getattr(tokenizer, "added_tokens_decoder", {}).items() if token.special}
    return dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)) | added


def check_extra(extra: dict[str, Any], known: Collection[str]) -> None:
    """Raises ConfigError where `sampling.extra` sets what has a key of its own, is not among the `known` fields of vLLM, or has
    another type than vLLM's."""
    taken = sorted(_OURS & extra.keys())
    if taken:
        raise ConfigError(f"sampling.extra.{taken[0]}: set by a key of its own, not here")
    check_known("sampling.extra.", extra, known, "sampling field")
    for name, value in extra.items():
        _check_type(name, value)


def _check_type(name: str, value: Any) -> None:
    kind = sampling_type(name)
    if kind is None:  # one of vLLM's own types: the engine will tell
        return
    import msgspec  # comes with vLLM

    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"sampling.extra.{name}={value!r}: vLLM refuses it: {error}") from None
