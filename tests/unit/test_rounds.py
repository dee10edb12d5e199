"""Rounds: which stages an invocation runs, where they lie, and what their rows depend on."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from caco_ray.config import Config, load_config
from caco_ray.errors import ConfigError
from caco_ray.fingerprint import PARENTS, fingerprint, settings
from caco_ray.ledger.lineage import Step, place_of, shard_at
from caco_ray.rounds import REPEATED, bounded, label, prefix
from caco_ray.schema import PROGRAM
from caco_ray.source import Joined, SampleRange
from caco_ray.store import Folder

CONF = Path(__file__).resolve().parents[2] / "conf"


def composed(*overrides: str) -> Config:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return load_config(OmegaConf.to_container(compose("config", ["run.dir=/runs/x", *overrides]), resolve=True))  # type: ignore[arg-type]


def test_the_loop_repeats_from_the_generator_to_the_judge() -> None:
    names = [label(stage, number) for number, stage in bounded(composed("rounds=2"))]
    assert names[:3] == ["seeds", "unify", "train_codegen"] and names[-4:] == ["assemble", "train_student", "evaluate", "report"]
    assert names[2 : 2 + len(REPEATED)] == list(REPEATED)
    assert names[2 + len(REPEATED) : -4] == [f"{stage} round 2" for stage in REPEATED]


@pytest.mark.parametrize(
    ("overrides", "first", "last"),
    [
        (["until=select"], (1, "seeds"), (2, "select")),
        (["until=unify"], (1, "seeds"), (1, "unify")),
        (["from=reverse"], (2, "reverse"), (2, "report")),
        (["from=unify", "until=scale"], (1, "unify"), (2, "scale")),
        (["from=assemble"], (2, "assemble"), (2, "report")),
    ],
)
def test_from_and_until_are_of_the_last_round(overrides: list[str], first: tuple[int, str], last: tuple[int, str]) -> None:
    chosen = bounded(composed("rounds=2", *overrides))
    assert (chosen[0], chosen[-1]) == (first, last)


def test_the_first_round_is_the_run_without_rounds() -> None:
    one, three = composed(), composed("rounds=3")
    for stage in ("seeds", "unify", *REPEATED):
        assert fingerprint(one, stage) == fingerprint(three, stage), stage
        assert prefix(stage, 1) == ""
    for stage in ("assemble", "train_student", "evaluate"):
        assert fingerprint(one, stage) != fingerprint(three, stage), stage
    assert settings(three, "assemble") == {"seed": 0, "rounds": 3}


def test_rounds_do_not_change_those_before_them_and_depend_on_them() -> None:
    two, three, other = composed("rounds=2"), composed("rounds=3"), composed("rounds=3", "own_weight=0.5")
    for stage in REPEATED:
        assert len({fingerprint(three, stage, number) for number in (1, 2, 3)}) == 3, stage
        assert fingerprint(two, stage, 2) == fingerprint(three, stage, 2), stage
        assert fingerprint(other, stage, 1) == fingerprint(three, stage, 1) and fingerprint(other, stage, 2) != fingerprint(three, stage, 2)
        assert prefix(stage, 2) == "rounds/2/"
    assert set(REPEATED) < set(PARENTS)


@pytest.mark.parametrize("override", ["models.sampler.path=/models/coder", "++training.codegen.enabled=false"])
def test_rounds_without_a_sampler_that_learns_are_refused(override: str) -> None:
    composed(override)
    with pytest.raises(ConfigError, match=r"rounds=2 needs a sampler that learns: models.sampler.path=run:codegen"):
        composed(override, "rounds=2")
    assert composed("profile=fake", "rounds=2").rounds == 2  # the plumbing can be tried without a model


def test_samples_are_numbered_through_all_rounds() -> None:
    first, second = SampleRange("scale", 5, 3, PROGRAM), SampleRange("scale", 5, 3, PROGRAM, first=5)
    rows = [row for source in (first, second) for shard in range(source.shards) for row in source.read(shard).table.to_pylist()]
    assert [row["sample_index"] for row in rows] == list(range(10)) and len({row["row_id"] for row in rows}) == 10


def test_shards_of_the_union_are_those_of_the_rounds_in_their_order() -> None:
    parts = SampleRange("scale", 5, 3, PROGRAM), SampleRange("scale", 9, 3, PROGRAM, first=5)
    union = Joined(parts)
    assert (union.shards, union.expected_rows) == (5, 14)
    numbers = [union.read(shard).table["sample_index"].to_pylist() for shard in range(5)]
    assert numbers == [[0, 1, 2], [3, 4], [5, 6, 7], [8, 9, 10], [11, 12, 13]]
    shipped = Step("assemble", "assemble", Folder("/x"), union, 2)
    places = [place_of(shipped, shard) for shard in range(5)]
    assert places == [(1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]
    assert [shard_at(shipped, place) for place in places] == list(range(5))
    solved = Step("solve round 2", "solve", Folder("/x"), None, 2)
    assert [shard_at(solved, place) for place in places] == [None, None, 0, 1, 2]
    with pytest.raises(IndexError):
        union.place(5)
