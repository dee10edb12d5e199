"""What the warm interpreter knows before the first program: modules imported, caches filled, memory laid out for cheap forks."""

import contextlib
import ctypes
import gc
import importlib
import io
import os
import re
from pathlib import Path

from caco_ray.sandbox.guest.libc import libc

_COMMON = [
    "math",
    "cmath",
    "random",
    "itertools",
    "functools",
    "collections",
    "collections.abc",
    "heapq",
    "bisect",
    "re",
    "string",
    "statistics",
    "fractions",
    "decimal",
    "datetime",
    "time",
    "calendar",
    "operator",
    "copy",
    "json",
    "typing",
    "dataclasses",
    "enum",
    "abc",
    "numbers",
    "array",
    "io",
    "sys",
    "types",
    "textwrap",
]
# Where files cannot be opened (L1), nothing can be imported later, so all that a program is likely to want is here.
_WIDE = [
    "unicodedata",
    "hashlib",
    "hmac",
    "base64",
    "binascii",
    "zlib",
    "struct",
    "queue",
    "contextlib",
    "warnings",
    "traceback",
    "inspect",
    "pprint",
    "uuid",
    "secrets",
    "csv",
    "html",
    "difflib",
    "fnmatch",
    "graphlib",
    "threading",
    "weakref",
    "timeit",
    "locale",
    "logging",
    "pickle",
    "tempfile",
    "shutil",
    "os",
    "pathlib",
    "argparse",
    "unittest",
    "zoneinfo",
    "colorsys",
    "concurrent.futures",
    "asyncio",
    "reprlib",
    "secrets",
    "shlex",
    "sched",
    "stringprep",
    "ast",
    "dis",
    "keyword",
    "tokenize",
    "platform",
    "contextvars",
    "cProfile",
    "doctest",
    "encodings.idna",
    "encodings.latin_1",
    "encodings.utf_16",
    "encodings.utf_32",
    "encodings.cp1252",
    "urllib.parse",
    "ipaddress",
]
_SCIENCE = ["numpy", "numpy.linalg", "numpy.random", "numpy.fft", "numpy.polynomial", "sympy"]

# Typical calls, once: the first solve() of a cold sympy costs 0.14 s, and every forked program would pay it again.
_WARM_SYMPY = """
from sympy import *
x, y, z = symbols("x y z"); n = symbols("n", integer=True, positive=True); f = Function("f")
solve(x**2 - 5*x + 6, x); solve([x + y - 10, x - y - 2], [x, y]); solve(x**3 - 6*x**2 + 11*x - 6); solve(Eq(2*x + 3, 7), x)
solveset(x**2 - 4, x, domain=S.Reals); linsolve([x + y - 3, x - y - 1], x, y); nonlinsolve([x*y - 6, x + y - 5], [x, y]); solve(sqrt(x) - 3, x)
simplify(sin(x)**2 + cos(x)**2); simplify((x**2 - 1)/(x - 1)); expand((x + y)**5); factor(x**4 - 1); apart(1/(x*(x + 1))); cancel((x**2 - 1)/(x + 1))
together(1/x + 1/y); collect(x*y + x, x); trigsimp(sin(x)/cos(x)); radsimp(1/(sqrt(2) + 1)); nsimplify(0.75); expand_trig(sin(2*x)); Rational(3, 4) + Rational(1, 6)
diff(x**3*sin(x), x); integrate(x**2*exp(x), x); integrate(sin(x), (x, 0, pi)); limit(sin(x)/x, x, 0); series(exp(x), x, 0, 4); summation(n**2, (n, 1, 10)); summation(n, (n, 1, y))
Matrix([[1, 2], [3, 4]]).det(); Matrix([[1, 2], [3, 5]]).inv(); Matrix([[2, 0], [0, 3]]).eigenvals(); Matrix([[2, 1], [1, 2]]).eigenvects(); Matrix([[1, 2, 3], [4, 5, 6]]).rref()
isprime(97); factorint(360); primerange(2, 50); list(primerange(2, 50)); gcd(12, 18); lcm(4, 6); divisors(60); totient(36); binomial(10, 3); factorial(10); nextprime(100); mod_inverse(3, 11); prime(10)
(x**2).subs(x, 3); sqrt(50); (sqrt(2) + 1).evalf(); N(pi, 20); float(sqrt(2)); sympify("x**2 + 1"); Poly(x**2 + 2*x + 1, x).all_coeffs(); roots(x**2 - 3*x + 2); log(8, 2); latex(x**2/2); str(sqrt(3)/2)
solve(x**2 < 4, x); solve_univariate_inequality(x**2 - 4 < 0, x, relational=False); Piecewise((x, x > 0), (0, True)).subs(x, 1); lambdify(x, x**2)(3); dsolve(f(x).diff(x) - f(x), f(x)); rsolve(f(n + 1) - 2*f(n), f(n), {f(0): 1})
Interval(0, 5).intersect(Interval(3, 8)); Point(0, 0).distance(Point(3, 4)); Triangle(Point(0, 0), Point(4, 0), Point(0, 3)).area; re(2 + 3*I); Abs(-3); floor(Rational(7, 2)); cos(pi/3); tan(pi/4); exp(1).evalf(); symbols("a:d")
"""
_WARM_NUMPY = """
import numpy as np
a = np.array([[2.0, 1.0], [1.0, 3.0]]); np.linalg.solve(a, np.array([1.0, 2.0])); np.linalg.inv(a); np.linalg.det(a); np.linalg.eig(a)
np.arange(10).sum(); np.linspace(0, 1, 5).mean(); np.random.rand(3); np.random.default_rng(0).normal(size=3); (a @ a).tolist(); str(a); repr(a)
np.roots([1, -3, 2]); np.cumsum([1, 2]); np.polyfit([0, 1, 2], [0, 1, 4], 2); np.std([1, 2]); np.unique([1, 1]); np.where(a > 1); np.sort([2, 1])
"""
_WARM_STDLIB = """
import re, json, datetime, fractions, decimal, statistics, collections, dataclasses, typing, random
re.findall(r"\\d+", "a1b22"); re.sub(r"[^a-z]", "", "ab1"); json.dumps({"a": [1, 2.5]}); json.loads("[1]"); str(datetime.date(2020, 1, 1))
fractions.Fraction(1, 3) + 1; str(decimal.Decimal("1.1") * 2); statistics.mean([1, 2]); statistics.stdev([1, 2, 4]); random.sample(range(9), 3)
collections.namedtuple("P", "x y")(1, 2); f"{3.14159:.2f}"
"""


def load(profile: str, wide: bool) -> None:
    """Imports and exercises; `profile` is `light` (standard library) or `full` (with numpy and sympy).

    Raises:
        ImportError: numpy or sympy is missing.
    """
    for name in _COMMON:
        importlib.import_module(name)
    for name in _WIDE if wide else ():
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    scripts = [_WARM_STDLIB]
    if profile == "full":
        for name in _SCIENCE:
            importlib.import_module(name)
        scripts += [_WARM_NUMPY, _WARM_SYMPY]
    with contextlib.redirect_stdout(io.StringIO()):
        for script in scripts:
            exec(script, {})
    re.purge()


def settle(huge_pages: bool = True) -> None:
    """Moves everything out of the collector's sight (a collection in a forked program would copy the whole heap), then gathers the heap
    into 2 MiB pages where the kernel can (Linux 6.1): a fork copies page tables, and these are 512 times fewer."""
    gc.collect()
    gc.freeze()
    if huge_pages:
        collapse()


def collapse() -> int:
    """Asks for huge pages under the anonymous memory of this process; returns how many bytes got them."""
    size, done = 2 << 20, 0
    pattern = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw-p 00000000 00:00 0 +(\[heap\])?$")
    try:
        maps = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return 0
    for match in filter(None, map(pattern.match, maps)):
        start, end = (int(match[1], 16) + size - 1) // size * size, int(match[2], 16) // size * size
        if end > start and libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), 25) == 0:  # MADV_COLLAPSE
            done += end - start
    return done


def address_space() -> int:
    """Bytes of address space in use (VmSize), 0 where /proc is missing."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
