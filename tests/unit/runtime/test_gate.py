"""What the gate grants and counts, also after it died and was told again."""

import asyncio

from caco_ray.runtime.gate import Gate, Limits


def test_a_gate_that_died_grants_no_more_than_the_one_before() -> None:
    async def granted() -> list[bool]:
        first, second = Gate(Limits(shards=4, infra_errors=60)), Gate(Limits(shards=4, infra_errors=60))
        before = [await first.granted(shard, 10) for shard in range(5)]
        await second.tell(5, dict.fromkeys(range(5), 10))
        after = [await second.granted(shard, 10) for shard in (4, 5, 6)]  # shard 4 asks again: its answer was lost
        return before + after

    assert asyncio.run(granted()) == [True] * 5 + [True, True, False]


def test_a_worker_dies_once_however_many_shards_it_held() -> None:
    async def counts() -> list[tuple[int, bool]]:
        gate, seen = Gate(Limits(4, 4)), []
        for killed, worker in (("it died", "a pid 1"), ("it died", "a pid 1"), ("it died", "a pid 2"), (None, ""), ("it died", "a pid 3")):
            await gate.beat("model", killed, worker)
            seen.append(((await gate.tell(0, {})).kills["model"], await gate.passed("model")))
        return seen

    assert asyncio.run(counts()) == [(1, False), (1, False), (2, False), (0, True), (1, True)]


def test_what_an_operator_waits_for_is_told_until_rows_get_through() -> None:
    async def waits() -> list[tuple[str, int]]:
        gate, seen = Gate(Limits(4, 4)), []
        await gate.wait("model", "m at http://host: cannot be reached")
        seen.append(((await gate.tell(0, {})).live.waits, (await gate.tell(0, {})).beats))
        await gate.beat("model", None, "")
        seen.append(((await gate.tell(0, {})).live.waits, (await gate.tell(0, {})).beats))
        return seen

    assert asyncio.run(waits()) == [("m at http://host: cannot be reached", 0), ("", 1)]


def test_a_failed_start_is_a_sign_of_life_and_says_why_until_one_is_ready() -> None:
    async def told() -> list[tuple[str, int]]:
        gate, seen = Gate(Limits(4, 4)), []
        await gate.starts("actor")
        for step in (gate.failed("model", "vLLM had not loaded it after 8 s"), gate.ready("actor", "model")):
            await step
            pulse = await gate.tell(0, {})
            seen.append((pulse.live.waits, pulse.beats))
        return seen

    assert asyncio.run(told()) == [("vLLM had not loaded it after 8 s", 2), ("", 2)]
