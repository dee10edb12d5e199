"""Verified solutions -> rows of the data set that is shipped."""

from caco_ray.schema import SHIPPED, Row

_RENAMED = {"instruction": "question", "output": "solution", "answer": "program_answer"}


def shipped_row(row: Row) -> Row:
    """A row of JUDGED or SOLUTION shape (the child of a kept one, ids set) as a row of SHIPPED.

    The four columns of the published set, then where each came from. `answer` is what the program printed: the value that was proved.
    Columns of a judge that never ran are null.
    """
    shipped = {name: row.get(name) for name in SHIPPED.names}
    shipped |= {target: row[source] for target, source in _RENAMED.items()}
    return shipped | {"solution_id": row.get("solution_id") or row["parent_id"]}
