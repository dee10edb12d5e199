"""From our sampling values to vLLM's `SamplingParams`."""

from collections.abc import Collection
from typing import Any

from caco_ray.config import SamplingConfig
from caco_ray.engines.vllm_names import check_known, sampling_type
from caco_ray.errors import ConfigError

_OURS = {*SamplingConfig.model_fields, "output_kind", "n", "seed"}
# Tables of vLLM's GPU runner (vllm/v1/worker/gpu/sample/logit_bias.py), of which it checks the length only where it dies of it.
_TABLES = {"allowed_token_ids": 1024, "logit_bias": 1024}
_STOP_TOKENS = 128  # of a request with `min_tokens`; the model's own ends count as well


def sampling_params(sampling: SamplingConfig, tokenizer: Any, gpus: int = 0) -> Any:
    """A special token never shows in the text, so that a stop string which is one has to be watched for as a token.

    Raises:
        ConfigError: vLLM refuses a value, does not know a field of `extra`, or would die of it on GPUs.
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
    check_extra(sampling.extra, SamplingParams.__struct_fields__, gpus)
    watched = [special[stop] for stop in sampling.stop if stop in special]
    extra = {**sampling.extra, "stop_token_ids": [*watched, *(sampling.extra.get("stop_token_ids") or ())]}
    if gpus and sampling.min_tokens:
        _check_stops({tokenizer.eos_token_id, *extra["stop_token_ids"]} - {None})
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


def check_extra(extra: dict[str, Any], known: Collection[str], gpus: int = 0) -> None:
    """Raises ConfigError where `sampling.extra` sets what has a key of its own, is not among the `known` fields of vLLM, has another
    type than vLLM's, or is longer than what a model on `gpus` has room for."""
    taken = sorted(_OURS & extra.keys())
    if taken:
        raise ConfigError(f"sampling.extra.{taken[0]}: set by a key of its own, not here")
    check_known("sampling.extra.", extra, known, "sampling field")
    for name, value in extra.items():
        _check_type(name, value)
        if gpus and value and name in _TABLES and len(value) > _TABLES[name]:
            raise ConfigError(f"sampling.extra.{name}: {len(value)} tokens; vLLM on GPUs has room for {_TABLES[name]} and dies of more")


def _check_stops(tokens: Collection[int]) -> None:
    if len(tokens) > _STOP_TOKENS:
        raise ConfigError(
            f"sampling.min_tokens: with {len(tokens)} tokens that end a reply (stop, sampling.extra.stop_token_ids and the model's own); "
            f"vLLM on GPUs has room for {_STOP_TOKENS} and dies of more: give fewer, or min_tokens=0"
        )


def _check_type(name: str, value: Any) -> None:
    kind = sampling_type(name)
    if kind is None:  # one of vLLM's own types: the engine will tell
        return
    import msgspec  # comes with vLLM

    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"sampling.extra.{name}={value!r}: vLLM refuses it: {error}") from None
