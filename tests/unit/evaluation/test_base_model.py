"""The base is asked by its own chat template where it has one that takes our messages; its rows and the fingerprint say so."""

import json
from pathlib import Path

import pytest

from caco_ray.config import FakeModel, SamplingConfig, VllmModel
from caco_ray.engines.base import Completion
from caco_ray.evaluation.base_model import ask_base
from caco_ray.schema import EVALUATED, row_id, to_table

CHATML = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}x"
SAMPLING = SamplingConfig(temperature=0, stop=("\n\n\n",))


class Recorder:
    """An engine that keeps what it was asked."""

    model_id = "recorder"

    def generate(self, prompts, sampling, *, n=1, seeds=None):
        self.prompts, self.sampling = prompts, sampling
        return [[Completion("It is \\boxed{2}.", "stop", 1, 1)] for _ in prompts]

    def seed_used(self, seed):
        return seed


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    made = Recorder()
    monkeypatch.setattr("caco_ray.stages.generate.build_engine", lambda model, *, path, seed: made)
    return made


def folder_with(path: Path, template: str | None) -> str:
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template} if template else {}))
    return str(path)


def asked(operator) -> str:
    row = {"row_id": row_id("p", "evaluate", 0), "parent_id": "p", "question": "What is 1 + 1?", "answer": "2"}
    (row,) = operator(to_table([row], EVALUATED)).to_pylist()
    return row["solve_prompt"]


def test_a_base_with_a_chat_template_gets_chat_messages(engine: Recorder, tmp_path: Path) -> None:
    path = folder_with(tmp_path, CHATML)
    assert asked(ask_base("solve", VllmModel(path=path, prompts="alpaca"), path, SAMPLING, 0)).endswith(":instruct")
    ((system, user),) = engine.prompts
    assert (system["role"], user["role"]) == ("system", "user") and "What is 1 + 1?" in user["content"]
    assert set(engine.sampling.stop) == {"\n\n\n", "<|im_end|>", "\n### Instruction:"}  # it may know no other end


@pytest.mark.parametrize("template", [None, NO_SYSTEM])
def test_any_other_base_gets_the_text_of_the_student(template: str | None, engine: Recorder, tmp_path: Path) -> None:
    path = folder_with(tmp_path, template)
    assert asked(ask_base("solve", VllmModel(path=path, prompts="alpaca"), path, SAMPLING, 0)).endswith(":alpaca")
    assert isinstance(engine.prompts[0], str) and "### Instruction:" in engine.prompts[0]


def test_engines_without_a_folder_are_asked_as_configured(engine: Recorder) -> None:
    assert asked(ask_base("solve", FakeModel(prompts="alpaca"), None, SAMPLING, 0)).endswith(":alpaca")
