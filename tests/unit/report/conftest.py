"""A small run folder, written with the real commit layer: 10 programs sampled, 3 rows shipped."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from caco_ray import schema
from caco_ray.config import Config, load_config
from caco_ray.evaluation import evaluate_rows
from caco_ray.run import FOLDERS
from caco_ray.schema import Row, row_id, to_table
from caco_ray.store import DatasetWriter, Folder, StageInfo

CONF = Path(__file__).resolve().parents[3] / "conf"
SCHEMAS = {
    "seeds": schema.SEED,
    "unify": schema.CODE_COT,
    "scale": schema.PROGRAM,
    "select": schema.SELECTED,
    "reverse": schema.PROBLEM,
    "solve": schema.SOLUTION,
    "judge": schema.JUDGED,
    "assemble": schema.SHIPPED,
}
PROGRAM = 'input = {"a": 3, "b": 4}\n\ndef solve(a, b):\n    # Step 1: add.\n    total = a + b\n    return total\n\noutput = solve(**input)\nprint(output)'
SAMPLED = {"sample_prompt_tokens": 2, "sample_tokens": 50, "cpu_s": 0.5}
REVERSED = {**SAMPLED, "reverse_prompt_tokens": 60, "reverse_tokens": 30}
SOLVED = {**REVERSED, "solve_prompt_tokens": 30, "solve_tokens": 80}


class RunFolder:
    """Writes stages as the pipeline does, with rows that a test chooses."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    def stage(self, name: str, kept: int, rejected: dict[str, int], quarantined: int = 0, fan_out: int = 1, **columns: object) -> None:
        """A closed stage in two shards with that many rows of each fate, all with `columns`."""
        fates = [(None, None)] * kept + [(reason, None) for reason, count in rejected.items() for _ in range(count)]
        fates += [(None, "the engine died")] * quarantined
        rows = [
            {"row_id": row_id(name, name, number), "parent_id": name, "reject_reason": reason, "infra_error": error, **columns}
            for number, (reason, error) in enumerate(fates)
        ]
        half = len(rows) // 2 // fan_out * fan_out
        self.write(name, [rows[:half], rows[half:]], fan_out)

    def write(self, name: str, shards: list[list[Row]], fan_out: int = 1, folder: Folder | None = None) -> Folder:
        folder = folder or self.folder / FOLDERS[name]
        of_stage = SCHEMAS.get(name, schema.EVALUATED)
        writer = DatasetWriter(folder, StageInfo(name, f"fp-{name}", {}, len(shards), fan_out), of_stage)
        writer.open()
        for shard, rows in enumerate(shards):
            writer.commit(shard, to_table(rows, of_stage), len(rows) // fan_out, 1.0)
        writer.close(2.0)
        return folder

    def ship(self, count: int, **changes: object) -> Folder:
        made = {
            "sample_model": "codegen", "sample_prompt": "sample@1:trained", "solve_model": "SmolLM2", "solve_prompt": "solve@1:trained",
            "sandbox_level": "L2", "question_style": "plain", "code": PROGRAM, "answer": "7", "output": "3 + 4 = 7. The answer is 7.",
        }  # fmt: skip
        rows = [
            {"row_id": row_id("s", "assemble", n), "parent_id": "s", "instruction": f"Question {n}: what is 3 + 4?", **made, **changes}
            for n in range(count)
        ]
        return self.write("assemble", [rows[:1], rows[1:]])

    def train(self, stage: str, lines: str) -> None:
        metrics = {"steps": 40, "examples": 480, "tokens": 121000, "final_loss": 0.2134, "tokens_per_s": 224.1, "skipped": {"no_columns": 3}}
        metrics["sequences"] = {"code_cot": {"sample": 373, "solve": 373}, "selected": {"sample": 127}}
        body = {
            "stage": stage,
            "fingerprint": f"fp-{stage}",
            "settings": {},
            "shards": 1,
            "fan_out": 1,
            "code_version": "0.1.0",
            "seconds": 540.0,
        }
        folder = self.folder / FOLDERS[stage]
        folder.write("progress.jsonl", lines.encode())
        folder.write("_SUCCESS", json.dumps({**body, "metrics": metrics}).encode())

    def evaluate(self, **correct: int) -> None:
        """20 problems in two domains; `correct` of them solved by each model."""
        folder, summary = self.folder / FOLDERS["evaluate"], {}
        for model, right in correct.items():
            rows = [
                {
                    "row_id": row_id(model, "evaluate", n), "parent_id": f"p{n}", "domain": ("algebra", "logic")[n % 2], "difficulty": 1,
                    "correct": n < right, "language_answer": None if n >= 17 else "1", "reject_reason": "truncated" if n >= 18 else None,
                    "solve_prompt": f"solve@1:{'instruct' if model == 'base' else 'alpaca'}", "solve_prompt_tokens": 10, "solve_tokens": 20,
                }
                for n in range(20)
            ]  # fmt: skip
            self.write("evaluate", [rows], folder=folder / model)
            summary[model] = evaluate_rows([{"infra_error": None, **row} for row in rows]).to_dict()
        folder.write("summary.json", json.dumps(summary).encode())
        folder.write("_SUCCESS", json.dumps({"seconds": 5.0}).encode())


@pytest.fixture
def empty_run(tmp_path: Path) -> RunFolder:
    return RunFolder(Folder(str(tmp_path / "run")))


@pytest.fixture
def run_in() -> type[RunFolder]:
    """Makes an empty run in a folder of the test's choice."""
    return RunFolder


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stages but the judge, closed; written once, never changed."""
    path = tmp_path_factory.mktemp("whole") / "run"
    made = RunFolder(Folder(str(path)))
    losses = "".join(json.dumps({"step": step, "loss": 3.0 / step, "lr": 2e-4, "tokens_per_s": 220.0}) + "\n" for step in range(1, 41))
    made.stage("seeds", 6, {})
    made.stage("unify", 5, {"answer_mismatch": 1}, cpu_s=0.25)
    made.train("train_codegen", losses)
    made.stage("scale", 6, {"does_not_run": 2, "too_short": 1}, quarantined=1, **SAMPLED)
    made.stage("select", 4, {"duplicate_ast": 2}, **SAMPLED)
    made.stage("reverse", 6, {"question_leaks_answer": 2}, fan_out=2, **REVERSED)
    made.stage("solve", 3, {"answer_disagrees": 2, "no_final_answer": 1}, **SOLVED)
    made.ship(3)
    made.train("train_student", losses)
    made.evaluate(base=2, student=8)
    return path


@pytest.fixture
def run(whole_run: Path, empty_run: RunFolder) -> RunFolder:
    """A copy of `whole_run` that a test may change."""
    shutil.copytree(whole_run, empty_run.folder.local_path)
    return empty_run


@pytest.fixture(scope="session")
def config_of() -> Callable[..., Config]:
    def composed(*overrides: str) -> Config:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return load_config(OmegaConf.to_container(compose("config", ["run.dir=/runs/x", *overrides]), resolve=True))  # type: ignore[arg-type]

    return composed


@pytest.fixture(scope="session")
def config(config_of: Callable[..., Config]) -> Config:
    return config_of()
