"""Low-rank adapters by `peft`, put into the model in place, and merged into its weights for the export."""

from typing import Any

import torch

from caco_ray.config import LoraConfig
from caco_ray.errors import ModelError, first_line

_ADAPTER = "default"


def add_adapters(model: Any, config: LoraConfig) -> None:
    """Freeze the model and add trainable adapters.

    Raises:
        ModelError: the model has none of the layers that `targets` name, or they are no linear layers, or the output head: its weight may
            be that of the input embedding too, which has no such adapter.
    """
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    head = model.get_output_embeddings()
    targets = list(config.targets) or "all-linear"
    settings = PeftConfig(r=config.rank, lora_alpha=config.alpha, target_modules=targets, lora_dropout=0.0, task_type="CAUSAL_LM")
    try:
        inject_adapter_in_model(settings, model, _ADAPTER)
    except ValueError as error:
        raise ModelError(f"training lora.targets={list(config.targets)}: {first_line(error)}") from error
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer) and (layer.base_layer is head or not isinstance(layer.base_layer, torch.nn.Linear)):
            what = "the output head" if layer.base_layer is head else f"a {type(layer.base_layer).__name__}"
            raise ModelError(f"training lora.targets={list(config.targets)}: {name} is {what}; name linear layers inside the model")


def merged(state: dict[str, torch.Tensor], config: LoraConfig) -> dict[str, torch.Tensor]:
    """The state of the model without adapters: W + alpha / rank x B A (float32, then W's type), under the names of the base model.

    Works on the gathered state, so that it is the same at every ZeRO stage, and empties it, so that no two copies are held.
    """
    result = {}
    for name in [name for name in state if ".lora_" not in name]:
        tensor, layer = state.pop(name), name.removesuffix(".base_layer.weight")
        if layer != name:
            down, up = (state[f"{layer}.lora_{side}.{_ADAPTER}.weight"].float() for side in "AB")
            tensor = (tensor.float() + config.alpha / config.rank * (up @ down)).to(tensor.dtype)
        result[name.replace(".base_layer.", ".")] = tensor
    return result
