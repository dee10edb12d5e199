"""The chat template of an exported model: messages as the training saw them."""

import json
from typing import Any

from caco_ray.config import TrainingConfig
from caco_ray.prompts import SOLVE_ALPACA, SOLVE_TRAINED
from caco_ray.raw_text import start_ids, turn_end


def chat_template(tokenizer: Any, training: TrainingConfig) -> str | None:
    """Jinja source that renders questions and solutions; None where the model learned none."""
    if "solve" not in training.roles:
        return None
    before, after = (SOLVE_ALPACA if training.prompts == "alpaca" else SOLVE_TRAINED).text.split("$question")
    user, answer, end = json.dumps(before), json.dumps(after), json.dumps(turn_end(tokenizer))
    start = json.dumps("".join(tokenizer.convert_ids_to_tokens(start_ids(tokenizer))))  # nobody adds it to a rendered chat
    return (
        "{{- " + start + " -}}{%- for message in messages -%}"
        "{%- if message['role'] == 'assistant' -%}{{- (message['content'] | trim) + " + end + " -}}"
        "{%- else -%}{{- " + user + " + (message['content'] | trim) + " + answer + " -}}{%- endif -%}"
        "{%- endfor -%}"
    )


def replaces_template(tokenizer: Any, training: TrainingConfig) -> bool:
    """Whether the base has a template, of other texts than the training's."""
    trained = chat_template(tokenizer, training)
    return trained is not None and tokenizer.chat_template not in (None, "", trained)
