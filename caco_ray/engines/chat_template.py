"""The chat template of a model folder, and whether it takes our messages. Nothing of the tokenizer is loaded."""

from pathlib import Path
from typing import Any

from caco_ray.config import VllmModel
from caco_ray.engines.model_files import read_json
from caco_ray.errors import ModelError

_PAIR = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 1 + 1?"}]
_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


def check_chat_template(model: VllmModel, folder: Path) -> None:
    """Render a pair of messages as instruct prompts have them.

    Raises:
        ModelError: there is no template, or it refuses them (some models know no system role).
    """
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    template = _template(folder)
    if not template:
        raise ModelError(f"{folder}: the tokenizer has no chat template, which prompts=instruct needs: add chat_template.jinja")
    if not isinstance(template, str):  # several with names: the tokenizer's to choose
        return
    tokens = {name: _text(_settings(folder).get(name)) for name in _TOKENS}
    try:
        render_jinja_template([_PAIR], chat_template=template, add_generation_prompt=True, **{**tokens, **model.chat_template_kwargs})
    except TemplateError as error:
        said = " ".join(str(error).split())
        raise ModelError(
            f"{folder}: its chat template refuses a system message before the user's ({said}); give another model, or a "
            "chat_template.jinja that takes one"
        ) from None


def _template(folder: Path) -> Any:
    """As transformers looks for it."""
    if (file := folder / "chat_template.jinja").is_file():
        return file.read_text(encoding="utf-8")
    if (file := folder / "chat_template.json").is_file():
        return read_json(file).get("chat_template")
    return _settings(folder).get("chat_template")


def _settings(folder: Path) -> dict[str, Any]:
    file = folder / "tokenizer_config.json"
    return read_json(file) if file.is_file() else {}


def _text(token: Any) -> str:
    """Of a special token, which is a text or an object that holds one."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")
