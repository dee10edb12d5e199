"""What the report says of variety moves as it should, and rounds are compared on equally many programs."""

import io

from rich.console import Console

from caco_ray.report import collect
from caco_ray.report.diversity import draw, measure, spread
from caco_ray.report.rounds import compare
from caco_ray.report.table import print_table
from caco_ray.schema import row_id
from caco_ray.store import Dataset, Folder

PROGRAM = 'input = {{"a": {0}, "b": 4}}\n\ndef solve(a, b):\n    # Step 1.\n    {1} = a {2} b\n    return {1}\n\noutput = solve(**input)\nprint(output)'


def program(value: int, name: str = "total", operator: str = "+") -> str:
    return PROGRAM.format(value, name, operator)


def test_repeated_programs_are_less_varied_than_different_ones() -> None:
    repeated = measure([program(3)] * 20)
    varied = measure([program(n, operator="+-*"[n % 3]) for n in range(20)])
    assert repeated is not None and varied is not None
    assert (repeated.distinct_programs, varied.distinct_programs) == (0.05, 1.0)
    assert repeated.distinct_ngrams < varied.distinct_ngrams and repeated.compression_ratio > varied.compression_ratio
    assert repeated.lines.median == 6


def test_another_name_does_not_make_another_program() -> None:
    measured = measure([program(3), program(3, name="sum_of_both"), program(4)])
    assert measured is not None and measured.distinct_programs == 2 / 3
    assert measure([]) is None


def test_domains_are_read_from_the_tags_of_programs() -> None:
    tagged = measure([f"# Domain: {name}\n{program(n)}" for n, name in enumerate(("algebra", "logic", "algebra"))])
    assert tagged is not None and tagged.domains == (("algebra", 2), ("logic", 1))


def test_hostile_text_is_measured_without_harm() -> None:
    assert measure(["(" * 5000, "\ud800 not utf-8", "def broken(:"]) is not None


def test_spread_is_median_and_ninetieth_percentile() -> None:
    assert (spread([7]).median, spread([7]).p90) == (7, 7)
    assert (spread(range(1, 12)).median, spread(range(1, 12)).p90) == (6, 10)


def rows(stage: str, first: int, count: int, **columns: object) -> list[dict[str, object]]:
    return [{"row_id": row_id(stage, stage, n), "parent_id": stage, "code": program(n), **columns} for n in range(first, first + count)]


def test_rounds_are_measured_on_equally_many_programs_and_shown_side_by_side(empty_run, config) -> None:
    empty_run.write("scale", [rows("scale", 0, 30), rows("scale", 30, 30)])
    empty_run.write("select", [rows("select", 0, 50)])
    later = empty_run.folder / "rounds/2"
    empty_run.write("scale", [rows("scale", 60, 20)], folder=later / "programs")
    empty_run.write("select", [rows("select", 60, 5)], folder=later / "selected")
    report = collect(empty_run.folder)
    assert [(one.number, one.sampled, one.new, one.diversity and one.diversity.programs) for one in report.rounds] == [
        (1, 60, 50, 20),
        (2, 20, 5, 20),
    ]
    assert [stage.name for stage in report.stages] == ["scale", "select", "scale round 2", "select round 2"]
    assert report.faults == ("select: 50 rows came in, but scale kept 60", "select round 2: 5 rows came in, but scale round 2 kept 20")
    assert dict(compare(report.rounds))["programs sampled"] == ["60", "20"] and "reverse round 2" in report.not_run
    console = Console(file=io.StringIO(), width=120)
    print_table(console, report)
    assert "round 1" in console.file.getvalue() and "distinct syntax trees" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_draw_reads_no_more_shards_than_it_needs(empty_run) -> None:
    folder = empty_run.write("scale", [rows("scale", 10 * shard, 10) for shard in range(6)])
    assert len(draw(Dataset(folder), ["code"], 15)) == 15
    read: list[int] = []

    class Watched(Dataset):
        def read(self, shard: int, *, kept_only: bool = True):  # type: ignore[no-untyped-def]
            read.append(shard)
            return super().read(shard, kept_only=kept_only)

    assert draw(Watched(Folder(folder.url)), ["code"], 15) == draw(Dataset(folder), ["code"], 15) and len(read) == 2
