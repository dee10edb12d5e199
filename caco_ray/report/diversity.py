"""How varied the programs of a generator are, and how long what it gave rise to is: what shows whether a generator narrows down when it
learns from itself.

Measured on programs that passed the filters, duplicates among them, since what repeats is the point. Compared are equally many of each
round: distinct n-grams (Li et al., arXiv 1510.03055) and the compression ratio (Shaib et al., arXiv 2403.00553) depend on how much text
there is. At most `MOST` rows of each data set are read, whole shards of it, drawn the same way each time.
"""

import gzip
import random
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from caco_ray.stages import program
from caco_ray.stages.select import ast_key
from caco_ray.store import Dataset
from caco_ray.training.examples import TAG

MOST = 1000
NGRAM = 4
_TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Spread:
    """Median and 90th percentile."""

    median: float
    p90: float


@dataclass(frozen=True)
class Diversity:
    """`programs`: how many were measured. `domains`: tagged ones by domain, the most frequent first; empty without domain tags."""

    programs: int
    distinct_programs: float  # share with a syntax tree of its own, up to names and layout
    distinct_ngrams: float  # distinct runs of NGRAM tokens / all of them
    compression_ratio: float  # bytes of all programs / bytes when gzipped: the higher, the more they repeat each other
    lines: Spread  # effective ones, of a program
    domains: tuple[tuple[str, int], ...]


def draw(dataset: Dataset, columns: Sequence[str], count: int = MOST) -> list[dict[str, object]]:
    """At most `count` kept rows of a data set.

    Raises:
        RunDirError: a shard that was drawn is missing or damaged.
    """
    shards = [entry.shard for entry in dataset.entries if entry.totals.kept]
    random.Random(0).shuffle(shards)
    drawn, rows = list[pa.Table](), 0
    while shards and rows < count:
        drawn.append(dataset.read(shards.pop()).select(list(columns)))
        rows += drawn[-1].num_rows
    found = pa.concat_tables(drawn).to_pylist() if drawn else []
    return random.Random(0).sample(found, min(count, len(found)))


def measure(programs: Sequence[str]) -> Diversity | None:
    """None where there is nothing to measure."""
    if not programs:
        return None
    tokens = [_TOKEN.findall(code) for code in programs]
    ngrams = Counter(tuple(line[i : i + NGRAM]) for line in tokens for i in range(len(line) - NGRAM + 1))
    text = "\n".join(programs).encode("utf-8", "surrogatepass")
    return Diversity(
        programs=len(programs),
        distinct_programs=len({ast_key(code) for code in programs}) / len(programs),
        distinct_ngrams=len(ngrams) / max(1, ngrams.total()),
        compression_ratio=len(text) / len(gzip.compress(text, mtime=0)),
        lines=spread([_lines(code) for code in programs]),
        domains=tuple(Counter(found[1] for code in programs if (found := TAG.match(code))).most_common()),
    )


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    cuts = statistics.quantiles(values, n=10, method="inclusive") if len(values) > 1 else [values[0]]
    return Spread(statistics.median(values), cuts[-1])


def _lines(code: str) -> int:
    tree = program.parse(code)
    return program.effective_lines(code, tree) if tree is not None else len(code.splitlines())
