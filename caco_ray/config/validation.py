"""Plain containers as frozen models; any mistake is one `ConfigError` line that names the key, the value and what is allowed."""

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import (
    BaseModel,
    ValidationError,
)

from caco_ray.config.base import Strict
from caco_ray.config.models import VARIANTS
from caco_ray.errors import ConfigError

Model = TypeVar("Model", bound=Strict)


def validate(model: type[Model], tree: Mapping[str, Any]) -> Model:
    """Plain containers as a frozen model.

    Raises:
        ConfigError: one line.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("; ".join(_describe(model, item) for item in error.errors())) from None


def _describe(root: type[Strict], item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"] if part not in VARIANTS) or "config"
    if item["type"] == "extra_forbidden":
        return f"{key}: no such key{_suggestion(root, item['loc'])}"
    if item["type"] == "missing":
        return f"{key}: a value is needed"
    if item["type"] == "value_error":
        return f"{key}: {item['msg'].removeprefix('Value error, ')}"
    value = "" if isinstance(item["input"], Mapping) else f"={item['input']!r}"  # a mapping may hold a key of an endpoint
    return f"{key}{value}: {item['msg'][:1].lower()}{item['msg'][1:]}"


def _suggestion(root: type[Strict], location: tuple[str | int, ...]) -> str:
    """The nearest key that exists, for a mistyped one."""
    fields: dict[str, Any] = {}
    model: Any = root
    for part in location[:-1]:
        model = _field_model(model, str(part))
    if isinstance(model, type) and issubclass(model, BaseModel):
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
    near = difflib.get_close_matches(str(location[-1]), fields, n=1)
    return f"; did you mean {near[0]}?" if near else (f"; there are: {', '.join(fields)}" if fields else "")


def _field_model(model: Any, name: str) -> Any:
    """The model of a field, or of a variant of a union when `name` is its tag."""
    if name in VARIANTS:
        return VARIANTS[name]
    field = getattr(model, "model_fields", {}).get(name)
    return field.annotation if field is not None else None
