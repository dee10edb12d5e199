"""The trained model as a folder that transformers and vLLM load as it is. Written beside its place, then renamed."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from caco_ray.config import TrainingConfig
from caco_ray.raw_text import turn_end
from caco_ray.training.base import load_tokenizer
from caco_ray.training.chat import chat_template, replaces_template
from caco_ray.training.first import from_first
from caco_ray.training.generation import mend_generation
from caco_ray.training.lora import merged
from caco_ray.training.types import MODEL_FOLDER, TrainLoopConfig

_CARD = """---
base_model: {base}
library_name: transformers
---
# {name}
{base} fine-tuned with caco_ray on {examples} sequences: {steps} steps.

Data: {data}

{chat}
```json
{metrics}
```

Settings of the training:

```json
{settings}
```
"""


def export_model(engine: Any, config: TrainLoopConfig, examples: int, steps: int, metrics: dict[str, Any]) -> None:
    """Gather the weights and write the folder on rank 0; returns on all ranks when it is there. A collective.

    Raises:
        ModelError: on every rank: the base's tokenizer does not load any more.
    """
    gather = engine._zero3_consolidated_16bit_state_dict if engine.zero_optimization_stage() == 3 else engine.module.state_dict
    state = gather()  # on every rank; under ZeRO-3 rank 0 alone gets the tensors

    def write() -> None:
        tokenizer, target = load_tokenizer(Path(config.base)), Path(config.output_dir) / MODEL_FOLDER
        partial = target.with_name(f".{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        card = model_card(config, tokenizer, examples, steps, metrics)
        _write(engine.module, merged(state, config.training.lora) if config.training.lora else state, tokenizer, partial, config.training)
        (partial / "README.md").write_text(card)
        _swap(partial, target)

    from_first(write)


def _swap(new: Path, target: Path) -> None:
    """A kill never leaves part of a model at `target`."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.rename(target, old)
    os.rename(new, target)
    shutil.rmtree(old, ignore_errors=True)


def _write(model: Any, state: dict[str, torch.Tensor], tokenizer: Any, folder: Path, training: TrainingConfig) -> None:
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)  # the same numbers as the input embedding: loaders tie them again
    model.config.use_cache = True  # off in training; a model that is trained on after this asks for it off in each call
    mend_generation(model.generation_config)
    _stop_at_turn_end(model.generation_config, tokenizer)
    model.save_pretrained(folder, state_dict={name: tensor.detach().cpu().contiguous() for name, tensor in state.items()})
    complete(tokenizer, training)
    tokenizer.save_pretrained(folder)


def complete(tokenizer: Any, training: TrainingConfig) -> None:
    """What users of the model need: a pad token, and the text of its training as chat template, whatever the base has."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.chat_template = chat_template(tokenizer, training) or tokenizer.chat_template


def _stop_at_turn_end(generation_config: Any, tokenizer: Any) -> None:
    """Generation stops at the token that ended what the model learned, besides the base's own ends."""
    ends = generation_config.eos_token_id
    ends = [ends] if isinstance(ends, int) else list(ends or [])
    end = tokenizer.convert_tokens_to_ids(turn_end(tokenizer))
    if end not in ends:
        ends.append(end)
    generation_config.eos_token_id = ends[0] if len(ends) == 1 else ends or None


def model_card(config: TrainLoopConfig, tokenizer: Any, examples: int, steps: int, metrics: dict[str, Any]) -> str:
    """A short README of the exported folder: what it was trained from and on, how, and how well."""
    base, data = config.base_name or Path(config.base).name, "; ".join(config.data) or "(not named)"
    settings = json.dumps(config.training.model_dump(mode="json"), indent=1)
    figures = json.dumps(metrics, indent=1)
    replaces = replaces_template(tokenizer, config.training)
    chat = f"Chat template: the text that it was trained with, instead of that of {base}.\n" if replaces else ""
    name = f"{base.rsplit('/', 1)[-1]}-caco"
    return _CARD.format(base=base, name=name, examples=examples, steps=steps, data=data, chat=chat, metrics=figures, settings=settings)
