"""Rows of the data set that is shipped."""

from caco_ray.schema import JUDGED, SHIPPED, SOLUTION, to_table
from caco_ray.stages.assemble import shipped_row


def full_row(schema):
    """Every column filled with its own name, or a number where it holds one."""
    return {field.name: field.name if str(field.type) == "string" else 1 for field in schema} | {"reject_reason": None, "infra_error": None}


def test_a_judged_row_keeps_its_lineage_under_the_published_names():
    (row,) = to_table([shipped_row(full_row(JUDGED))], SHIPPED).to_pylist()
    assert (row["instruction"], row["output"], row["answer"], row["code"]) == ("question", "solution", "program_answer", "code")
    changed = {"instruction", "output", "answer", "sample_index", "reject_reason", "infra_error"}
    changed |= {"solve_samples", "solve_pass_rate"}  # numbers
    assert all(row[name] == name for name in SHIPPED.names if name not in changed)


def test_a_solution_that_was_not_judged_ships_without_a_judge():
    (row,) = to_table([shipped_row(full_row(SOLUTION))], SHIPPED).to_pylist()
    assert (row["judge_model"], row["judge_prompt"], row["solution_id"]) == (None, None, "parent_id")
