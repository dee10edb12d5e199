"""Which examples make which step. Everything follows from the seed and the lengths, so every rank and every restart agrees
without a word being exchanged, and the gradient of a step is the same at any number of ranks.
"""

from dataclasses import dataclass

import numpy as np
import torch

from caco_ray.config import TrainingConfig
from caco_ray.training.data import TokenFile

_WINDOW_STEPS = 50  # examples of so many steps are sorted by length together: little padding, and the order stays random beyond


class StepPlan:
    """Examples of each step (a global batch). The last step of an epoch may hold fewer; no example is used twice in an epoch."""

    def __init__(self, lengths: np.ndarray, config: TrainingConfig) -> None:
        self._lengths = lengths
        self._batch = config.batch_rows
        self._seed = config.seed
        self._epoch: tuple[int, list[np.ndarray]] | None = None
        self.steps_per_epoch = -(-len(lengths) // config.batch_rows)
        steps = max(1, round(config.epochs * self.steps_per_epoch))
        self.steps = min(steps, config.max_steps or steps)

    def __getitem__(self, step: int) -> np.ndarray:
        """Indices of the examples of a step, longest first."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, self._epoch_batches(epoch)
        return self._epoch[1][position]

    def _epoch_batches(self, epoch: int) -> list[np.ndarray]:
        generator = np.random.default_rng([self._seed, epoch])
        order = generator.permutation(len(self._lengths))
        batches = []
        for start in range(0, len(order), self._batch * _WINDOW_STEPS):
            window = order[start : start + self._batch * _WINDOW_STEPS]
            window = window[np.argsort(-self._lengths[window], kind="stable")]
            batches += [window[first : first + self._batch] for first in range(0, len(window), self._batch)]
        return [batches[position] for position in generator.permutation(len(batches))]


def micro_batches(examples: np.ndarray, micro_steps: int, world: int, rank: int) -> list[list[int]]:
    """This rank's share of a step, one list per forward pass; a list is empty where a small last step has too few examples."""
    return [part[rank::world].tolist() for part in np.array_split(examples, micro_steps)]


@dataclass(frozen=True)
class Batch:
    """Right-padded: causal attention needs no mask then, because nothing looks to its right.

    input_ids: int64 [rows, longest]; positions: int64 [n], flat places whose next token is learned; targets: int64 [n].
    """

    input_ids: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    tokens: int  # without padding


def make_batch(file: TokenFile, examples: list[int], device: str) -> Batch:
    """Tensors of one forward pass. An empty share gives one token without a loss, so that every rank takes part."""
    sequences = [file[index] for index in examples]
    width = max((len(ids) for ids, _ in sequences), default=1)
    input_ids = np.zeros((max(len(sequences), 1), width), dtype=np.int64)
    learn = np.zeros_like(input_ids, dtype=bool)
    for row, (ids, flags) in enumerate(sequences):
        input_ids[row, : len(ids)] = ids
        learn[row, : len(ids)] = flags
    learn[:, 0] = False
    places = np.flatnonzero(learn)
    positions, targets = torch.from_numpy(places - 1), torch.from_numpy(input_ids.reshape(-1)[places])
    useful = sum(len(ids) for ids, _ in sequences)
    return Batch(torch.from_numpy(input_ids).to(device), positions.to(device), targets.to(device), useful)


def learned_tokens(file: TokenFile, examples: np.ndarray) -> int:
    """Tokens that the loss of a step counts, over all ranks."""
    return sum(int(file[index][1][1:].sum()) for index in examples.tolist())
