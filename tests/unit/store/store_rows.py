"""Rows and settings of a small stage."""

import pyarrow as pa

from caco_ray.schema import SEED, row_id, to_table
from caco_ray.store import StageInfo


def rows(shard: int, count: int = 4, tag: str = "") -> pa.Table:
    made = [{"row_id": row_id(f"p{shard}", "seeds", i), "parent_id": f"p{shard}", "question": f"q{tag}{i}"} for i in range(count)]
    made[0]["reject_reason"] = "too_short"
    made[1]["infra_error"] = "the engine died"
    return to_table(made, SEED)


def info(**changes: object) -> StageInfo:
    return StageInfo(**{"stage": "seeds", "fingerprint": "f1", "settings": {"a": {"b": 1}}, "shards": 2, **changes})
