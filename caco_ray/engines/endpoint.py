"""Does an endpoint answer, take our key and know the model? One request tells, before anything is paid for."""

import os

import openai

from caco_ray.config import OpenAiModel
from caco_ray.errors import ModelError

_TIMEOUT_S = 20.0
_LISTED = 5


def check_endpoint(model: OpenAiModel) -> None:
    """`GET /models`. A model that is not listed is asked for one token, since some servers list others than they serve.

    Raises:
        ModelError: nothing answers there, the key is refused, or there is no such model. An answer of another kind is left to the stage.
    """
    where = f"{model.model} at {model.base_url}"
    key = os.environ.get(model.api_key_env, "").strip()
    with openai.OpenAI(base_url=model.base_url, api_key=key or "none", timeout=_TIMEOUT_S, max_retries=1) as client:
        try:
            listed = [each.id for each in client.models.list().data or ()]
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            is_set = "set" if key else "not set"
            raise ModelError(f"{where}: the endpoint refuses the key ({error.status_code}); ${model.api_key_env} is {is_set}") from None
        except openai.APIConnectionError as error:
            raise ModelError(f"{where}: cannot be reached ({error.__cause__ or error}); start it, or mend base_url") from None
        except (openai.APIError, AttributeError, ValueError):  # a server without such a list, or with one of its own kind
            return
        if model.model not in listed and not _is_served(client, model):
            names = ", ".join(listed[:_LISTED]) + (" ..." if len(listed) > _LISTED else "")
            raise ModelError(f"{where}: the endpoint does not know this model; it lists {names or 'none'}")


def _is_served(client: openai.OpenAI, model: OpenAiModel) -> bool:
    try:
        client.chat.completions.create(model=model.model, messages=[{"role": "user", "content": "1"}], max_tokens=1)
    except openai.NotFoundError:
        return False
    except openai.APIError:
        pass
    return True
