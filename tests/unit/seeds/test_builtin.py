"""The built-in problems: every program executes and equals its answer."""

import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from caco_ray.seeds.builtin import builtin_seeds

DOMAINS = {"arithmetic", "algebra", "number_theory", "geometry", "counting_probability", "algorithms", "logic"}
SEEDS = [*builtin_seeds("train"), *builtin_seeds("heldout")]


def test_there_are_enough_and_every_domain_has_both_splits() -> None:
    assert len(SEEDS) >= 200
    for split in ("train", "heldout"):
        assert {seed["domain"] for seed in SEEDS if seed["split"] == split} == DOMAINS


def test_ids_questions_and_programs_are_unique() -> None:
    for field in ("source_id", "question", "code"):
        assert [value for value, count in Counter(seed[field] for seed in SEEDS).items() if count > 1] == []


def test_every_problem_is_complete() -> None:
    for seed in SEEDS:
        assert all(seed[field] for field in ("question", "cot", "code", "answer")), seed["source_id"]
        assert seed["difficulty"] in (1, 2, 3)
        assert seed["cot"].endswith(f"\\boxed{{{seed['answer']}}}."), seed["source_id"]


def test_every_program_prints_its_answer() -> None:
    """These programs are ours, so a plain interpreter may run them; the sandbox tests run them isolated."""
    joined = [SEEDS[start : start + 20] for start in range(0, len(SEEDS), 20)]
    with ThreadPoolExecutor(2) as pool:
        wrong = [item for found in pool.map(_wrong, joined) for item in found]
    assert wrong == []


def _wrong(seeds: list[dict]) -> list[tuple[str, str, str]]:
    runner = "import sys, json\nfor code in json.load(sys.stdin):\n    exec(code, {'__name__': '__main__'})\n    print('\\x1e', end='')"
    import json

    sources = json.dumps([seed["code"] for seed in seeds])
    done = subprocess.run([sys.executable, "-I", "-c", runner], input=sources, capture_output=True, text=True, check=True)
    printed = done.stdout.split("\x1e")[:-1]
    assert len(printed) == len(seeds)
    return [
        (seed["source_id"], seed["answer"], out.strip()) for seed, out in zip(seeds, printed, strict=True) if out.strip() != seed["answer"]
    ]
