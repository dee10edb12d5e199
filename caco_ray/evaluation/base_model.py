"""The model before its training, asked in its own way: a rate should tell what it can solve, not whether it knows a form it never saw."""

from caco_ray.config import ModelConfig, SamplingConfig, VllmModel
from caco_ray.engines.chat_template import check_chat_template
from caco_ray.engines.model_folder import find_folder
from caco_ray.errors import ModelError
from caco_ray.prompts import STOPS, Role
from caco_ray.stages.generate import Generate


def ask_base(role: Role, config: ModelConfig, path: str | None, sampling: SamplingConfig, seed: int) -> Generate:
    """As `Generate`, with chat messages where the model has a template that takes them; else with the prompts of `config`.

    Decided where the engine is: no other node need have the model. What was asked stands in each row (`solve_prompt`). Limit: a base that
    was never taught to chat may have a template all the same (those of Qwen2.5), and is asked by it; it stops at what ends the
    configured prompts too.
    """
    if isinstance(config, VllmModel) and path and takes_chats(config, path):
        sampling = sampling.model_copy(update={"stop": (*sampling.stop, *STOPS[config.prompts])})
        config = config.model_copy(update={"prompts": "instruct"})
    return Generate(role, config, path, sampling, seed)


def takes_chats(config: VllmModel, path: str) -> bool:
    """Whether the model has a chat template that takes our messages.

    Raises:
        ModelError: there is no such model.
    """
    folder = find_folder(path, config.revision)
    try:
        check_chat_template(config, folder)
    except ModelError:
        return False
    return True
