"""From our sampling values to vLLM's `SamplingParams`."""

import difflib
from typing import Any

from caco_ray.config import SamplingConfig
from caco_ray.errors import ConfigError


def sampling_params(sampling: SamplingConfig, tokenizer: Any) -> Any:
    """A special token never shows in the text, so that a stop string which is one has to be watched for as a token.

    Raises:
        ConfigError: vLLM refuses a value, or does not know a field of `extra`.
    """
    from vllm import SamplingParams
    from vllm.exceptions import VLLMClientError
    from vllm.sampling_params import RequestOutputKind

    special = [stop for stop in sampling.stop if stop in tokenizer.all_special_tokens]
    ours: dict[str, Any] = {
        **sampling.model_dump(exclude={"stop", "extra"}),
        "stop": [stop for stop in sampling.stop if stop not in special],
        "stop_token_ids": tokenizer.convert_tokens_to_ids(special),
        "output_kind": RequestOutputKind.FINAL_ONLY,
    }
    _check_extra(sampling.extra, ours, SamplingParams.__struct_fields__)
    try:
        return SamplingParams(**ours, **sampling.extra)
    except (VLLMClientError, ValueError, TypeError) as error:
        raise ConfigError(f"sampling: vLLM refuses it: {' '.join(str(error).split())}") from error


def _check_extra(extra: dict[str, Any], ours: dict[str, Any], known: tuple[str, ...]) -> None:
    for name in extra:
        if name in ours or name in ("n", "seed"):
            raise ConfigError(f"sampling.extra.{name}: set by a key of its own, not here")
        if name not in known or name.startswith("_"):
            near = difflib.get_close_matches(name, known, n=1)
            raise ConfigError(f"sampling.extra.{name}: vLLM has no such sampling field" + (f"; did you mean {near[0]}?" if near else ""))
