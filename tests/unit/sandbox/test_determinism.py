"""The same program gives the same row: over repeats, over interpreters, idle and under load; and what cannot be is noticed."""

import os
import subprocess
import sys

from caco_ray.sandbox import Limits, Sandbox

STEADY = [
    "output = sum(range(100))",
    "import random\noutput = [random.random(), random.randint(0, 99), random.sample(range(50), 5)]",
    "import numpy as np\noutput = np.random.rand(4)",
    "import numpy as np\noutput = np.linalg.solve(np.array([[2., 1.], [1., 3.]]), np.array([1., 2.]))",
    "output = list({'apple', 'pear', 'plum', 'fig'})",
    "output = hash('text')",
    "output = {frozenset('abc'), 'd', (1, 2.5)}",
    "import sympy\nx, y = sympy.symbols('x y')\noutput = [sympy.solve([x + y - 3, x - y - 1], [x, y]), sympy.factor(x**3 - 1), sympy.sqrt(8)]",
    "import sympy\noutput = sympy.factorint(2**31 - 2)",
    "from sympy.core.random import rng, random_complex_number\noutput = [rng.random(), random_complex_number()]",
    "import sympy\nfrom sympy.core import random\nstate = random._assumptions_rng.random()\noutput = [state, sympy.Dummy().dummy_index]",
    "import decimal\noutput = decimal.Decimal(2).sqrt()",
    "raise KeyError('missing')",
    "import datetime\noutput = datetime.date(2024, 2, 29) + datetime.timedelta(days=365)",
    "output = sorted(globals())",
    "def f(n): return n if n < 2 else f(n - 1) + f(n - 2)\noutput = f(18)",
    "x = bytearray(1 << 40)",
]


def rows(box: Sandbox, seed: int = 0) -> list[tuple[object, ...]]:
    return [(r.status, r.output_json, r.error, r.stdout) for r in box.run_many(STEADY, seed=seed)]


def test_same_rows_over_repeats_interpreters_and_load() -> None:
    with Sandbox(limits=Limits(cpu_s=10), workers=2) as first, Sandbox(limits=Limits(cpu_s=10)) as second:
        expected = rows(first)
        assert [row[0] for row in expected].count("ok") == len(STEADY) - 2
        assert rows(first) == rows(first) == rows(second) == expected
        load = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
        try:
            assert rows(first) == rows(second) == expected
        finally:
            for process in load:
                process.kill()
                process.wait()


def test_another_seed_shows_what_depends_on_chance() -> None:
    random_set_order = "output = list({'apple', 'pear', 'plum', 'fig', 'kiwi', 'lime'})"
    unseeded = "import random\noutput = random.random()"
    numpy_unseeded = "import numpy as np\noutput = float(np.random.rand())"
    sympy_unseeded = "from sympy.core.random import rng\noutput = rng.random()"
    clock = "import time\noutput = time.time_ns()"
    seeded = "import random\nrandom.seed(5)\noutput = [random.random(), sorted({'a', 'b'}), {'x', 'y', 'z'}]"
    with Sandbox() as box:
        for program in (random_set_order, unseeded, numpy_unseeded, sympy_unseeded, clock):
            assert box.run(program, seed=0).output_json != box.run(program, seed=1).output_json
        assert box.run(seeded, seed=0).output_json == box.run(seeded, seed=1).output_json
        assert box.run(unseeded, seed=3).output_json == box.run(unseeded, seed=3).output_json
        assert box.run(unseeded, seed=-(2**62)).status == box.run(numpy_unseeded, seed=2**62).status == "ok"
