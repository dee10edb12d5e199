"""Costs are counted once and add up; lineage is a join on ids."""

from pathlib import Path

import pytest

from caco_ray.config import Config
from caco_ray.ledger.lineage import Cost, Step, cost_columns, cost_of, cost_of_row, read_config, steps
from caco_ray.schema import OF_STAGE
from caco_ray.store import Dataset, Folder


@pytest.fixture(scope="module")
def ledger(finished_run: Path) -> tuple[Config, list[Step]]:
    run = Folder(str(finished_run))
    config = read_config(run)
    return config, list(steps(run, config))


def test_the_steps_are_the_closed_data_sets_in_the_order_of_the_loop(ledger) -> None:
    assert [step.label for step in ledger[1]] == ["seeds", "unify", "scale", "select", "reverse", "solve", "judge", "assemble"]


def test_every_cost_column_exists_and_belongs_to_one_stage() -> None:
    owned = [(column, stage) for stage in OF_STAGE for columns in cost_columns(stage).values() for column in columns]
    assert all(column in OF_STAGE[stage].names for column, stage in owned)
    loop = [column for column, stage in owned if stage not in ("evaluate", "unify")]
    assert len(loop) == len(set(loop))


def test_the_costs_of_all_rows_sum_to_what_the_manifests_recorded(ledger) -> None:
    """Tokens exactly and CPU seconds of programs but for rounding, over kept, rejected and quarantined rows alike."""
    from_rows, recorded = Cost(), dict.fromkeys(("tokens", "prompt_tokens"), 0)
    for step in ledger[1]:
        dataset = Dataset(step.folder)
        by_table = sum((cost_of(step.stage, table) for table in dataset.tables(kept_only=False)), Cost())
        by_row = sum((cost_of_row(step.stage, row) for row in dataset.rows(kept_only=False)), Cost())
        assert by_row.tokens == by_table.tokens and by_row.cpu_s == pytest.approx(by_table.cpu_s)
        from_rows += by_table
        for field in recorded:
            recorded[field] += sum(dataset.totals.sums[column] for column in cost_columns(step.stage).get(field, ()))
    assert (from_rows.tokens, from_rows.prompt_tokens) == (recorded["tokens"], recorded["prompt_tokens"])
    assert from_rows.tokens > 1000 and from_rows.cpu_s > 0


def test_a_stage_does_not_count_what_it_carries_along(ledger) -> None:
    by_stage = {
        step.stage: sum((cost_of(step.stage, table) for table in Dataset(step.folder).tables(kept_only=False)), Cost())
        for step in ledger[1]
    }
    assert by_stage["select"] == by_stage["assemble"] == by_stage["seeds"] == Cost()
    assert by_stage["unify"].tokens == 0 and by_stage["unify"].cpu_s > 0  # its seeds bring their programs
    assert by_stage["scale"].tokens > by_stage["reverse"].tokens > 0


def test_lineage_joins_each_row_with_the_one_it_was_made_of(ledger) -> None:
    step_of = {step.stage: step for step in ledger[1]}
    for stage, parent in (("select", "scale"), ("reverse", "select"), ("solve", "reverse"), ("judge", "solve"), ("assemble", "judge")):
        parents = {row["row_id"]: row for row in Dataset(step_of[parent].folder).read(0).to_pylist()}
        rows = Dataset(step_of[stage].folder).read(0, kept_only=False).to_pylist()
        assert rows and all(parents[row["parent_id"]]["code"] == row["code"] is not None for row in rows), stage
