"""Which examples make which step, and which rank computes them in which forward pass.

Everything follows from the seed and the lengths, so every rank and every restart agrees without a word being exchanged, and the
gradient of a step is the same at any number of ranks.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from caco_ray.config import TrainingConfig

_WINDOW_STEPS = 50  # by_length: examples of so many steps are sorted by length together: little padding, and random order beyond


@dataclass(frozen=True)
class Mixed:
    """The examples of one data set, and how many times as many an epoch holds."""

    examples: np.ndarray
    weight: float = 1.0

    @property
    def per_epoch(self) -> int:
        return max(1, round(self.weight * len(self.examples)))

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """This epoch's examples: each one the same number of times, or once more."""
        return np.resize(generator.permutation(self.examples), self.per_epoch)


def count_steps(per_epoch: float, config: TrainingConfig) -> int:
    """Optimizer steps of a training with so many examples in an epoch."""
    steps = max(1, round(config.epochs * math.ceil(per_epoch / config.batch_rows)))
    return min(steps, config.max_steps or steps)


def too_short(per_epoch: float, config: TrainingConfig) -> str | None:
    """Why a training would leave its base almost as it was, and what to do; None where it would not."""
    steps = count_steps(per_epoch, config)
    if config.max_steps or steps >= config.min_steps:
        return None
    return (
        f"{per_epoch:,.0f} examples in batches of batch_rows={config.batch_rows} for epochs={config.epochs:g} make {steps} optimizer "
        f"steps, fewer than min_steps={config.min_steps}: the model would stay almost what it was; lower batch_rows, raise epochs, give "
        f"more data, or set min_steps={steps} if it is meant"
    )


class StepPlan:
    """Examples of each step (a global batch). The last step of an epoch may hold fewer."""

    def __init__(self, lengths: np.ndarray, config: TrainingConfig, mixture: Sequence[Mixed] | None = None) -> None:
        self._lengths = lengths
        self._batch = config.batch_rows
        self._seed = config.seed
        self._sorted = config.batching == "by_length"
        self._mixture = mixture or [Mixed(np.arange(len(lengths)))]
        self._epoch: tuple[int, list[np.ndarray]] | None = None
        self.per_epoch = sum(mixed.per_epoch for mixed in self._mixture)
        self.steps_per_epoch = -(-self.per_epoch // config.batch_rows)
        self.steps = count_steps(self.per_epoch, config)

    def __getitem__(self, step: int) -> np.ndarray:
        """Indices of the examples of a step, longest first."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, self._epoch_batches(epoch)
        batch = self._epoch[1][position]
        return batch[np.argsort(-self._lengths[batch], kind="stable")]

    def _epoch_batches(self, epoch: int) -> list[np.ndarray]:
        generator = np.random.default_rng([self._seed, epoch])
        order = generator.permutation(np.concatenate([mixed.draw(generator) for mixed in self._mixture]))
        if not self._sorted:
            return [order[first : first + self._batch] for first in range(0, len(order), self._batch)]
        batches = []
        for start in range(0, len(order), self._batch * _WINDOW_STEPS):
            window = order[start : start + self._batch * _WINDOW_STEPS]
            window = window[np.argsort(-self._lengths[window], kind="stable")]
            batches += [window[first : first + self._batch] for first in range(0, len(window), self._batch)]
        return [batches[position] for position in generator.permutation(len(batches))]


@dataclass(frozen=True)
class Share:
    """What one rank computes of a step. Every rank has the same number of passes; a pass is empty where examples are too few.

    slots: tokens that all ranks together had time for, with padding, and with waiting for the largest share of each pass.
    """

    passes: list[list[int]]
    slots: int


def make_share(examples: np.ndarray, lengths: np.ndarray, config: TrainingConfig, world: int, rank: int) -> Share:
    """Cut `examples` (indices, longest first) into this rank's forward passes; `lengths` are those of all examples."""
    if config.batching == "packed":
        bins = pack(lengths[examples], config.micro_batch_rows * config.max_length, world)
        passes = [[examples[members].tolist() for members in bins[first : first + world]] for first in range(0, len(bins), world)]
        sizes = [[int(lengths[members].sum()) for members in of_ranks] for of_ranks in passes]
    else:
        count = -(-len(examples) // (config.micro_batch_rows * world))
        passes = [[part[other::world].tolist() for other in range(world)] for part in np.array_split(examples, count)]
        sizes = [[len(members) * int(lengths[members].max(initial=0)) for members in of_ranks] for of_ranks in passes]
    return Share([of_ranks[rank] for of_ranks in passes], sum(world * max(of_ranks) for of_ranks in sizes))


def pack(lengths: np.ndarray, capacity: int, world: int) -> list[list[int]]:
    """Bins of positions in `lengths`, none over `capacity` tokens, a multiple of `world` of them, all filled alike, fullest first.

    Longest first into the emptiest bin (LPT, https://doi.org/10.1137/0117039); where that overflows, with more bins.
    """
    count = world * max(1, -(-int(lengths.sum()) // (capacity * world)))
    while True:
        bins: list[tuple[int, int, list[int]]] = [(0, number, []) for number in range(count)]
        for position in np.argsort(-lengths, kind="stable").tolist():
            load, number, members = heapq.heappop(bins)
            heapq.heappush(bins, (load + int(lengths[position]), number, [*members, position]))
        if max(load for load, _, _ in bins) <= capacity or count >= len(lengths):
            return [members for _, _, members in sorted(bins, key=lambda item: (-item[0], item[1]))]
        count += world
