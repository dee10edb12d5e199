"""Programs that depend on chance get further seeds, others none."""

import random

import numpy as np
import pytest

from caco_ray.stages.chance import further_seeds
from caco_ray.stages.program import parse


def seeds_of(code: str) -> tuple[int, ...]:
    tree = parse(code)
    assert tree is not None
    return further_seeds(tree)


CHANCE = seeds_of("import random")


@pytest.mark.parametrize(
    "code",
    [
        "import random as r\noutput = r.random()",
        "from random import choice\noutput = choice([1, 2])",
        "import secrets, math\noutput = secrets.randbelow(2)",
        "from uuid import uuid4\noutput = uuid4().int % 2",
        "import numpy as np\noutput = int(np.random.rand() < 0.9)",
        "import numpy.random as nr\noutput = nr.rand()",
        "from numpy.random import default_rng\noutput = default_rng().random()",
        "from numpy import random\noutput = random.rand()",
        "import os\noutput = os.urandom(1)[0] % 2",
        "from sympy.core.random import rng\noutput = rng.random()",
    ],
)
def test_chance_is_seen(code: str) -> None:
    assert seeds_of(code) == CHANCE and len(CHANCE) == 4


@pytest.mark.parametrize(
    "code",
    [
        "output = list({'a', 'b'})",
        "output = ''.join({x for x in 'ab'})",
        "names = ['a', 'b']\noutput = next(iter(set(names)))",
        "a = 'x'\noutput = [n for n in {a, 'y'}]",
        "output = hash('text') % 2",
        "output = list(frozenset('ab'))",
        "found = set('ab')\nif 'a' in found: output = list(found)",
    ],
)
def test_sets_of_strings_are_seen(code: str) -> None:
    assert seeds_of(code) == (2,)


@pytest.mark.parametrize(
    "code",
    [
        "output = list({3, 1, 2.5, None})",
        "output = len(set('abca'))",
        "seen = set()\nseen.add(3)\noutput = 3 in seen",
        "output = sorted({'b', 'a'})",
        "output = 'a' in {'a', 'b'}",
        "output = {'a': 1}",
        "random_walk = 5\nuuid = 3\noutput = uuid",
        "import math\noutput = math.comb(5, 2)",
    ],
)
def test_the_others_have_none(code: str) -> None:
    assert seeds_of(code) == ()


@pytest.mark.parametrize("seed", [0, 1])
def test_the_seeds_draw_what_is_rare(seed: int) -> None:
    """So that an outcome of nine in ten is told from a certain one, by the first draw or the second."""
    for draws in (lambda s: random.Random(s).random, lambda s: np.random.RandomState(s).random_sample):
        for place in (0, 1):
            drawn = []
            for tried in (seed, *CHANCE):
                draw = draws(tried)
                drawn.append([draw(), draw()][place])
            assert min(drawn) < 0.03 and max(drawn) > 0.97
