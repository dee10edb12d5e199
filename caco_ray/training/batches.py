"""Examples -> the tensors of one forward pass: padded side by side, or packed end to end."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from caco_ray.training.data import TokenFile


@dataclass(frozen=True)
class Batch:
    """inputs: arguments of the model; positions: int64 [n], flat places whose next token is learned; targets: int64 [n]."""

    inputs: dict[str, Any]
    positions: torch.Tensor
    targets: torch.Tensor


def padded_batch(file: TokenFile, examples: list[int], device: str) -> Batch:
    """`input_ids` int64 [rows, longest]. Padding is at the right: causal attention needs no mask then, because nothing looks there.

    An empty share gives one token without a loss, so that every rank takes part.
    """
    sequences = [file[index] for index in examples]
    width = max((len(ids) for ids, _ in sequences), default=1)
    input_ids = np.zeros((max(len(sequences), 1), width), dtype=np.int64)
    learn = np.zeros_like(input_ids, dtype=bool)
    for row, (ids, flags) in enumerate(sequences):
        input_ids[row, : len(ids)] = ids
        learn[row, 1 : len(ids)] = flags[1:]
    return _batch({"input_ids": torch.from_numpy(input_ids).to(device)}, input_ids, learn, device)


def packed_batch(file: TokenFile, examples: list[int], device: str) -> Batch:
    """`input_ids` int64 [1, tokens]: sequences end to end, each with positions from 0 and `cu_seq_lens_*` at its ends.

    The attention of `attention.py` does not look over these ends.
    """
    sequences = [file[index] for index in examples] or [(np.zeros(1, np.int32), np.zeros(1, bool))]
    lengths = [len(ids) for ids, _ in sequences]
    input_ids = np.concatenate([ids for ids, _ in sequences]).astype(np.int64)[None]
    learn = np.concatenate([flags for _, flags in sequences])[None]
    ends = np.cumsum([0, *lengths])
    learn[0, ends[:-1]] = False
    boundaries = torch.tensor(ends, dtype=torch.int32, device=device)
    inputs = {
        "input_ids": torch.from_numpy(input_ids).to(device),
        "position_ids": torch.from_numpy(np.concatenate([np.arange(length) for length in lengths])[None]).to(device),
        "cu_seq_lens_q": boundaries,
        "cu_seq_lens_k": boundaries,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
    }
    return _batch(inputs, input_ids, learn, device)


def _batch(inputs: dict[str, Any], input_ids: np.ndarray, learn: np.ndarray, device: str) -> Batch:
    places = np.flatnonzero(learn)
    positions, targets = torch.from_numpy(places - 1), torch.from_numpy(input_ids.reshape(-1)[places])
    return Batch(inputs, positions.to(device), targets.to(device))
