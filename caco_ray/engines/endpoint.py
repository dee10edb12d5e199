"""Does an endpoint answer, take our key and know the model? One request tells, before anything is paid for."""

import os

import openai

from caco_ray.config import OpenAiModel
from caco_ray.errors import ModelError

_TIMEOUT_S = 20.0
_LISTED = 5


def api_key(model: OpenAiModel) -> str:
    """From the environment; empty where the variable is not set.

    Raises:
        ModelError: what it holds cannot be sent. The message does not repeat it.
    """
    key = os.environ.get(model.api_key_env, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ModelError(f"{model.model}: ${model.api_key_env} holds a line break or another character that no key has: set it again")
    return key


def connect_failure(error: BaseException) -> str | None:
    """Why no connection came about; None where one did. Other causes may quote what was sent, with the key."""
    cause = error.__cause__  # of httpx or httpx2, whichever the client library brings
    return str(cause) if type(cause).__name__ in ("ConnectError", "ConnectTimeout") else None


def check_endpoint(model: OpenAiModel) -> None:
    """`GET /models`. A model that is not listed is asked for one token, since some servers list others than they serve.

    Raises:
        ModelError: nothing answers there, the key is refused, there is no such model, or its context is shorter than configured. An
            answer of another kind is left to the stage.
    """
    where = f"{model.model} at {model.base_url}"
    key = api_key(model)
    with openai.OpenAI(base_url=model.base_url, api_key=key or "none", timeout=_TIMEOUT_S, max_retries=1) as client:
        try:
            listed = {each.id: getattr(each, "max_model_len", None) for each in client.models.list().data or ()}
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            is_set = "set" if key else "not set"
            raise ModelError(f"{where}: the endpoint refuses the key ({error.status_code}); ${model.api_key_env} is {is_set}") from None
        except openai.APIConnectionError as error:
            raise ModelError(f"{where}: cannot be reached ({connect_failure(error) or error}); start it, or mend base_url") from None
        except (openai.APIError, AttributeError, ValueError):  # a server without such a list, or with one of its own kind
            return
        if model.model not in listed and not _is_served(client, model):
            names = ", ".join([*listed][:_LISTED]) + (" ..." if len(listed) > _LISTED else "")
            raise ModelError(f"{where}: the endpoint does not know this model; it lists {names or 'none'}")
        context = listed.get(model.model)  # vLLM and SGLang tell
        if isinstance(context, int) and context < model.max_model_len:
            raise ModelError(f"{where}: serves a context of {context} tokens; give max_model_len={context}, not {model.max_model_len}")


def _is_served(client: openai.OpenAI, model: OpenAiModel) -> bool:
    try:
        client.chat.completions.create(model=model.model, messages=[{"role": "user", "content": "1"}], max_tokens=1)
    except openai.NotFoundError:
        return False
    except openai.APIError:
        pass
    return True
