"""Mark rows by what a look at the whole data set found: duplicates, and overlap with evaluation problems."""

import pyarrow as pa
import pyarrow.compute as pc

from caco_ray.duplicate_files import Duplicates
from caco_ray.schema import live, reject, to_table
from caco_ray.stages.select import EvaluationIndex, contamination, program_contamination


def mark_duplicates(table: pa.Table, duplicates: Duplicates, column: str, reasons: tuple[str, str]) -> pa.Table:
    """Reject the rows whose `column` (`program_id`, `problem_id`) is among the duplicates, and name the earlier one.

    `reasons`: where text and normal form are the same, and where the normal form alone is.
    """
    if not table.num_rows:
        return table
    found = duplicates.among(table["sample_index"])
    here = found.filter(pc.is_in(found["row_id"], value_set=table[column].combine_chunks()))
    by_id = {row["row_id"]: row for row in here.to_pylist()}
    rows = table.to_pylist()
    for row in live(rows):
        if (duplicate := by_id.get(row[column])) is not None:
            row["duplicate_of"] = duplicate["duplicate_of"]
            reject(row, reasons[0] if duplicate["is_exact"] else reasons[1])
    return to_table(rows, table.schema)


def mark_contaminated(table: pa.Table, index: EvaluationIndex, column: str) -> pa.Table:
    """Reject the rows whose `column` (`code` or `question`) shares an n-gram with a protected question."""
    overlaps = program_contamination if column == "code" else contamination
    rows = table.to_pylist()
    for row in live(rows):
        if overlaps(row[column], index):
            reject(row, "contaminated")
    return to_table(rows, table.schema)
