"""How many shards an engine has in hand: few enough to lose little with it, enough to keep its batch full."""

import heapq
import random
from collections import deque
from types import SimpleNamespace

import pytest

from caco_ray.config import FakeModel, OpenAiModel, SamplingConfig, VllmModel
from caco_ray.operators import shards_in_flight, solvers


def fullness(slots: int, shard_rows: int, in_flight: int, shards: int) -> float:
    """Share of an engine's slots that work, where each tenth row takes ten times longer; until the last shard is in."""
    draw, waiting, working, left = random.Random(0), deque[tuple[int, float]](), [], {}
    now = worked = 0.0
    begun = 0

    def begin() -> None:
        nonlocal begun
        left[begun] = shard_rows
        waiting.extend((begun, 10.0 if draw.random() < 0.1 else 1.0) for _ in range(shard_rows))
        begun += 1

    for _ in range(in_flight):
        begin()
    while begun < shards:
        while waiting and len(working) < slots:
            shard, takes = waiting.popleft()
            heapq.heappush(working, (now + takes, shard, takes))
        now, shard, takes = heapq.heappop(working)
        worked += takes
        left[shard] -= 1
        if not left[shard]:
            begin()
    return worked / (slots * now)


@pytest.mark.parametrize(("max_num_seqs", "shard_rows"), [(256, 1024), (256, 256), (64, 50), (64, 32), (256, 250), (256, 12)])
def test_a_batch_stays_full_while_long_rows_finish(max_num_seqs: int, shard_rows: int) -> None:
    in_flight = shards_in_flight(VllmModel(path="any", max_num_seqs=max_num_seqs), shard_rows)
    assert fullness(max_num_seqs, shard_rows, in_flight, shards=30 * 1024 // shard_rows) > 0.95
    assert fullness(max_num_seqs, shard_rows, 2, shards=30 * 1024 // shard_rows) < 0.95  # what it takes more for


@pytest.mark.parametrize(
    ("model", "shard_rows", "shards"),
    [
        (VllmModel(path="any", max_num_seqs=256), 10_000, 3),
        (VllmModel(path="any", max_num_seqs=256), 1, 256),
        (OpenAiModel(base_url="http://host/v1", model="any", max_concurrency=64), 64, 6),
        (FakeModel(), 50, 3),
    ],
)
def test_within_bounds(model: VllmModel | OpenAiModel | FakeModel, shard_rows: int, shards: int) -> None:
    assert shards_in_flight(model, shard_rows) == shards


def test_solutions_drawn_in_turn_are_asked_for_at_once_by_problem() -> None:
    """Of 64 rows with 8 samples of each problem 8 are in the engine at a time."""

    def calls(stop_when_agreed: bool) -> int:
        solving = SimpleNamespace(samples=8, stop_when_agreed=stop_when_agreed, sampling=SamplingConfig(temperature=1))
        config = SimpleNamespace(solve=solving, models=SimpleNamespace(solve=VllmModel(path="any", max_num_seqs=64)), seed=0)
        return solvers(SimpleNamespace(config=config, model_path=lambda model: "any"), shard_rows=64)[0].calls

    assert (calls(stop_when_agreed=False), calls(stop_when_agreed=True)) == (6, 48)
