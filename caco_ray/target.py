"""Target mode of `scale`: sample in rounds until `accept` programs are kept, or `budget` samples are spent.

A round is the next range of shards. Its size follows from the shards that the rounds before it committed and from nothing else, so that
a restart after a kill at any moment goes on with the very round it was in, and no sample is lost or made twice. Limit: the last round is
finished, so a few programs more than asked for may be kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from caco_ray.store import Folder
from caco_ray.store.dataset import SUCCESS_FILE

_MARGIN = 1.1  # rounds load the model anew: ask for a little more than the yield so far says


@dataclass(frozen=True)
class Standing:
    """Where a stage stands. `shards` and `samples` are those of all rounds so far; `kept` is of the complete ones.

    With `outcome` None the round `rounds` is the one to work on.
    """

    rounds: int
    shards: int
    samples: int
    kept: int
    outcome: Literal["reached", "spent"] | None = None


@dataclass(frozen=True)
class Target:
    """`round_samples`: at most so many samples in a round."""

    accept: int
    budget: int
    round_samples: int
    shard_rows: int

    def standing(self, kept: Mapping[int, int]) -> Standing:
        """Play the rounds so far again; `kept`: kept programs of each committed shard."""
        at = Standing(0, 0, 0, 0)
        while at.outcome is None:
            shards = at.shards + self._next_shards(at)
            begun = Standing(at.rounds + 1, shards, min(shards * self.shard_rows, self.budget), at.kept)
            of_round = range(at.shards, shards)
            if any(shard not in kept for shard in of_round):
                return begun
            in_all = at.kept + sum(kept[shard] for shard in of_round)
            outcome: Literal["reached", "spent"] | None = "spent" if begun.samples >= self.budget else None
            at = Standing(begun.rounds, shards, begun.samples, in_all, "reached" if in_all >= self.accept else outcome)
        return at

    def describe(self, at: Standing) -> str:
        """Which of the two ended the sampling, in words."""
        spent = f"{at.samples:,} samples in {at.rounds:,} {'round' if at.rounds == 1 else 'rounds'}"
        if at.outcome == "reached":
            return f"target of {self.accept:,} programs reached: {at.kept:,} kept of {spent}"
        return f"budget of {self.budget:,} samples spent, target of {self.accept:,} programs missed: {at.kept:,} kept of {spent}"

    def _next_shards(self, at: Standing) -> int:
        missing = self.accept - at.kept
        if at.samples == 0:
            wanted = missing
        elif at.kept == 0:
            wanted = self.round_samples
        else:
            wanted = int(_MARGIN * missing * at.samples / at.kept) + 1
        return -(-min(wanted, self.round_samples, self.budget - at.samples) // self.shard_rows)


class RoundFolder(Folder):
    """The folder of a stage with more rounds to come: a round that ends does not close the stage."""

    def write(self, name: str, data: bytes) -> None:
        if name != SUCCESS_FILE:
            super().write(name, data)
