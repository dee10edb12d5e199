"""Does an endpoint answer, take our key and know the model? One request tells, before anything is paid for."""

import os
from collections.abc import Iterable
from typing import Any

import openai

from caco_ray.config import OpenAiModel, SamplingConfig
from caco_ray.errors import ConfigError, ModelError

_TIMEOUT_S = 20.0
_LISTED = 5
# Of a request: what the engine sets itself, and what would make the reply another thing than one completion.
_OURS = {
    *SamplingConfig.model_fields,
    *("model", "messages", "prompt", "seed", "max_completion_tokens", "chat_template_kwargs"),
    *("n", "best_of", "echo", "stream", "stream_options"),
}


def api_key(model: OpenAiModel) -> str:
    """From the environment; empty where the variable is not set.

    Raises:
        ModelError: what it holds cannot be sent. The message does not repeat it.
    """
    key = os.environ.get(model.api_key_env, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ModelError(f"{model.model}: ${model.api_key_env} holds a line break or another character that no key has: set it again")
    return key


def check_request_fields(extra: Iterable[str]) -> None:
    """Raises ConfigError where `sampling.extra` names a field of the request that is not free. Which others a server knows, it tells."""
    for name in sorted(_OURS.intersection(extra)):
        raise ConfigError(f"sampling.extra.{name}: an endpoint gets it from a key of its own, or not at all: leave it out")


def connect_failure(error: BaseException) -> str | None:
    """Why no connection came about; None where one did. Other causes may quote what was sent, with the key."""
    cause = error.__cause__  # of httpx or httpx2, whichever the client library brings
    return str(cause) if type(cause).__name__ in ("ConnectError", "ConnectTimeout") else None


def check_endpoint(model: OpenAiModel) -> None:
    """`GET /models`. A model that is not listed is asked for one token, since some servers list others than they serve, and some keys are
    allowed completions but no list.

    Raises:
        ModelError: nothing answers there, the key is refused, there is no such model, or its context is shorter than configured. An
            answer of another kind is left to the stage.
    """
    where = f"{model.model} at {model.base_url}"
    key = api_key(model)
    with openai.OpenAI(base_url=model.base_url, api_key=key or "none", timeout=_TIMEOUT_S, max_retries=1) as client:
        try:
            listed = _listed(client)
            if listed is not None and model.model not in listed:
                _check_serves(client, model, where, listed)
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            is_set = "set" if key else "not set"
            raise ModelError(f"{where}: the endpoint refuses the key ({error.status_code}); ${model.api_key_env} is {is_set}") from None
        except openai.APIConnectionError as error:
            raise ModelError(f"{where}: cannot be reached ({connect_failure(error) or error}); start it, or mend base_url") from None
    context = (listed or {}).get(model.model)  # vLLM and SGLang tell
    if isinstance(context, int) and context < model.max_model_len:
        raise ModelError(f"{where}: serves a context of {context} tokens; give max_model_len={context}, not {model.max_model_len}")


def _listed(client: openai.OpenAI) -> dict[str, Any] | None:
    """Contexts by model: none where the key is not allowed to see them. None: a server without such a list, or with one of its own kind."""
    try:
        return {each.id: getattr(each, "max_model_len", None) for each in client.models.list().data or ()}
    except (openai.AuthenticationError, openai.PermissionDeniedError):
        return {}
    except openai.APIConnectionError:
        raise
    except (openai.APIError, AttributeError, ValueError):
        return None


def _check_serves(client: openai.OpenAI, model: OpenAiModel, where: str, listed: dict[str, Any]) -> None:
    try:
        client.chat.completions.create(model=model.model, messages=[{"role": "user", "content": "1"}], max_tokens=1)
    except openai.NotFoundError:
        names = ", ".join([*listed][:_LISTED]) + (" ..." if len(listed) > _LISTED else "")
        raise ModelError(f"{where}: the endpoint does not know this model; it lists {names or 'none'}") from None
    except (openai.AuthenticationError, openai.PermissionDeniedError):
        raise
    except (openai.APIError, ValueError):  # the model may have to be loaded first
        pass
