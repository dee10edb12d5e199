"""The card of the shipped data set: front matter that a hub can read, and statements that are true of the rows."""

import json
from typing import Any

import pytest
import yaml

from caco_ray.cli import parse_arguments
from caco_ray.errors import RunDirError
from caco_ray.ledger.verify import VerifyConfig, _sandbox
from caco_ray.report import write_card
from caco_ray.report.card import fenced, size_category
from caco_ray.schema import SHIPPED


def card_of(run, config) -> str:
    write_card(run.folder, config)
    return (run.folder / "dataset").read("README.md").decode()


def front_matter(card: str) -> dict[str, Any]:
    _, head, _ = card.split("---\n", 2)
    return yaml.safe_load(head)


def test_the_front_matter_describes_the_files(run, config) -> None:
    head = front_matter(card_of(run, config))
    assert head["license"] == "apache-2.0"
    assert head["size_categories"] == ["n<1K"]
    assert head["configs"] == [{"config_name": "default", "data_files": [{"split": "train", "path": "data/*.parquet"}]}]
    assert "fp-assemble" in head["pretty_name"]


def test_a_file_that_no_manifest_names_is_not_offered(run, config) -> None:
    dataset = run.folder / "dataset"
    named = [f"data/{name}" for name in dataset.names("data")]
    dataset.write("data/part-000000-deadbeef.parquet", b"left by a killed commit")
    assert front_matter(card_of(run, config))["configs"][0]["data_files"][0]["path"] == named


def test_every_column_is_explained(run, config) -> None:
    card = card_of(run, config)
    for field in SHIPPED:
        assert f"| `{field.name}` | {field.type} | " in card
    assert "|  |\n| `" not in card


def test_the_card_says_how_rows_were_proved_and_how_to_prove_them_again(run, config) -> None:
    card = card_of(run, config)
    for expected in (
        "level L2 for 3 rows",
        "run twice",
        "was not judged",
        "python jobs/verify.py dataset=",
        "arXiv preprint arXiv:2510.04081",
        "`fp-assemble`",
    ):
        assert expected in card
    assert "| scale | 10 | 10 | 6 | 3 | 1 | 2 does\\_not\\_run, 1 too\\_short |" in card
    assert "| solve | SmolLM2 | solve@1:trained | 3 |" in card
    assert "evaluate" not in card.split("## Funnel")[1].split("## Models")[0]


def test_the_command_that_verifies_carries_the_limits_of_the_run(run, config, config_of, monkeypatch) -> None:
    def command(card: str) -> list[str]:
        return next(line for line in card.splitlines() if line.startswith("python jobs/verify.py")).split()

    place = "dataset=/absolute/path/of/this/folder"
    assert command(card_of(run, config)) == ["python", "jobs/verify.py", place]
    own = config_of("sandbox.cpu_s=20", "sandbox.wall_s=90.5", "sandbox.memory_mb=2048", "sandbox.workers=3")
    given = command(card_of(run, own))
    assert given[3:] == ["sandbox.cpu_s=20", "sandbox.wall_s=90.5", "sandbox.memory_mb=2048"]
    monkeypatch.setattr("sys.argv", given[1:])
    assert _sandbox(parse_arguments(VerifyConfig), None).limits() == own.sandbox.limits()


def test_the_card_says_what_is_not_looked_for(run, config) -> None:
    card = " ".join(card_of(run, config).split())
    assert "looked for only where they are announced" in card and "Units are not compared" in card and "without reading the clock" in card


def test_models_and_seeds_of_others_bring_their_own_terms(run, config_of) -> None:
    config = config_of("model@models.solve=openai", "models.solve.base_url=http://h/v1", "models.solve.model=m")
    card = card_of(run, config)
    assert front_matter(card)["license"] == "other" and "their terms apply" in card
    with_file = config_of("++seeds.path=/data/mine.jsonl")
    card = card_of(run, with_file)
    assert front_matter(card)["license"] == "other" and "/data/mine.jsonl" in card


def test_rows_without_a_model_are_not_for_training(run, config, config_of) -> None:
    assert "**Not for training.** The engine of unify, sampler, reverse, solve" in card_of(run, config_of("profile=fake"))
    assert "Not for training" not in card_of(run, config)


def test_a_judge_that_ran_is_told(run, config_of) -> None:
    assert "only rows with a yes are here" in card_of(run, config_of("judge.enabled=true"))


def test_what_a_model_wrote_cannot_leave_its_place(run, config) -> None:
    hostile = "``````\n---\n# Not a heading\n````"
    run.folder.delete("dataset")
    run.ship(1, code=hostile, instruction=hostile, solve_model="a | b\n| c <script>")
    card = card_of(run, config)
    assert f"```````\n{hostile}\n```````" in card
    assert "| solve | a \\| b \\| c \\<script\\> |" in card
    assert front_matter(card)["license"] == "apache-2.0"


def test_an_empty_data_set_has_a_card(empty_run, config) -> None:
    empty_run.ship(0)
    card = card_of(empty_run, config)
    assert "0 rows of question" in card and "## One row" not in card


def test_counts_that_do_not_add_up_are_in_the_card(run, config) -> None:
    folder = run.folder / "solutions"
    body = json.loads(folder.read("_SUCCESS"))
    body["entries"][0]["totals"]["kept"] += 1
    folder.write("_SUCCESS", json.dumps(body).encode())
    assert "ERROR: the counts of this run do not add up" in card_of(run, config)


def test_there_is_no_card_without_a_data_set(empty_run, config) -> None:
    with pytest.raises(RunDirError, match="not complete"):
        write_card(empty_run.folder, config)


@pytest.mark.parametrize(
    ("rows", "name"), [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (1_348_799, "1M<n<10M"), (10**9, "1B<n<10B"), (10**11, "10B<n<100B")]
)
def test_size_categories(rows: int, name: str) -> None:
    assert size_category(rows) == name


@pytest.mark.parametrize(("text", "fence"), [("plain", "```"), ("a `b` c", "```"), ("```\nx\n```", "````"), ("`" * 9, "`" * 10)])
def test_a_fence_is_longer_than_what_it_holds(text: str, fence: str) -> None:
    assert fenced(text, "python") == f"{fence}python\n{text}\n{fence}"
