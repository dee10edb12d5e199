"""The loop with real parts at the smallest honest size: SmolLM2-135M in vLLM on CPU, DeepSpeed on Ray Train, the sandbox.

A model of a few training steps writes next to nothing that can be shipped: what is tested is that every stage does its real work, that its
rows add up, and that failures have names. The quickstart is where yields are shown.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from caco_ray.schema import REASONS
from caco_ray.store import Dataset, Folder

ROOT = Path(__file__).resolve().parents[2]
OVERRIDES = (
    "profile=quickstart",
    "seeds.limit=12",
    "unify.sampling.max_tokens=48",
    "training.codegen.max_steps=4",
    "training.codegen.batch_rows=6",
    "training.codegen.micro_batch_rows=6",
    "training.student.enabled=false",
    "sampling.max_tokens=96",
    "scale.samples=12",
    "scale.shard_rows=6",
    "filters.enabled=[does_not_parse]",
    "reverse.sampling.max_tokens=32",
    "reverse.min_words=1",
    "solve.sampling.max_tokens=48",
    "evaluate.sampling.max_tokens=24",
    "evaluate.models=[base]",
)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    seeds = folder / "seeds.jsonl"  # problems without code: the converter is asked
    seeds.write_text('{"question": "What is 3 + 4?", "answer": "7"}\n{"question": "What is 2 * 5?", "answer": "10"}\n')
    command = [sys.executable, "jobs/run.py", *OVERRIDES, f"seeds.path={seeds}", f"run.dir={folder}/run"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=550, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder / "run"


def rows(run_folder: Path, name: str) -> list[dict]:
    return list(Dataset(Folder(str(run_folder / name))).rows(kept_only=False))


def test_seeds_without_code_went_through_the_converter(run_folder: Path) -> None:
    unified = rows(run_folder, "code_cot")
    assert len(unified) == 14
    asked = [row for row in unified if row["unify_model"] is not None]
    assert len(asked) == 2 and all(row["unify_tokens"] > 0 and row["unify_prompt"] == "unify@1:instruct" for row in asked)
    assert all(row["reject_reason"] is None and row["exec_status"] == "ok" for row in unified if row["source"] == "builtin")


def test_the_sampler_was_trained_and_saved(run_folder: Path) -> None:
    metrics = json.loads((run_folder / "models/codegen/_SUCCESS").read_text())["metrics"]
    assert metrics["steps"] == 4 and metrics["learned_tokens"] > 0
    assert set(metrics["sequences"]) == {"code_cot"} and set(metrics["sequences"]["code_cot"]) == {"sample", "reverse", "solve"}
    assert (run_folder / "models/codegen/model/model.safetensors").stat().st_size > 1e8


@pytest.mark.parametrize(("name", "role"), [("programs", "sample"), ("problems", "reverse"), ("solutions", "solve")])
def test_every_row_of_a_model_stage_is_accounted_for(run_folder: Path, name: str, role: str) -> None:
    made = rows(run_folder, name)
    assert all(row["infra_error"] is None for row in made)
    assert {row["reject_reason"] for row in made} <= {None, *REASONS}
    assert all(row[f"{role}_finish"] in ("stop", "length") and row[f"{role}_tokens"] > 0 and "@" in row[f"{role}_model"] for row in made)
    if name == "programs":
        assert len(made) == 12 and len({row["code"] for row in made}) > 1


def test_the_base_model_was_graded_on_held_out_problems(run_folder: Path) -> None:
    graded = rows(run_folder, "evaluation/base")
    assert len(graded) >= 24 and all(row["solve_tokens"] > 0 for row in graded)
    summary = json.loads((run_folder / "evaluation/summary.json").read_text())
    assert summary["base"]["overall"]["problems"] == len(graded)
    assert {row["solve_prompt"].partition(":")[2] for row in graded} == {"instruct"}  # by its own chat template, not the student's text
    assert summary["base"]["truncated"] == sum(row["reject_reason"] == "truncated" for row in graded) <= summary["base"]["unanswered"]


def test_the_report_is_written(run_folder: Path) -> None:
    page = (run_folder / "report.html").read_text()
    assert "<html" in page and "http://" not in page.replace("http://www.w3.org", "")
