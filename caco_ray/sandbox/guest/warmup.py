"""What a warm interpreter imports and does once, so that no program pays for it: a cold sympy needs 0.14 s for its first solve().

All of it is fixed text of this project; nothing here comes from a program.
"""

COMMON = """math cmath random itertools functools collections collections.abc heapq bisect re string statistics fractions decimal datetime
time calendar operator copy json typing dataclasses enum abc numbers array io sys types textwrap"""
# Where files cannot be opened (L1), nothing can be imported later, so all that a program is likely to want is here.
WIDE = """unicodedata hashlib hmac base64 binascii zlib struct queue contextlib warnings traceback inspect pprint uuid secrets csv html
difflib fnmatch graphlib threading weakref timeit locale logging pickle tempfile shutil os pathlib argparse unittest zoneinfo colorsys
concurrent.futures asyncio reprlib shlex sched stringprep ast dis keyword tokenize platform contextvars cProfile doctest
encodings.idna encodings.latin_1 encodings.utf_16 encodings.utf_32 encodings.cp1252 urllib.parse ipaddress"""
SCIENCE = "numpy numpy.linalg numpy.random numpy.fft numpy.polynomial sympy"

SYMPY = """
from sympy import *
x, y, z = symbols("x y z")
n = symbols("n", integer=True, positive=True)
f = Function("f")
solve(x**2 - 5*x + 6, x); solve([x + y - 10, x - y - 2], [x, y]); solve(x**3 - 6*x**2 + 11*x - 6); solve(Eq(2*x + 3, 7), x)
solve(sqrt(x) - 3, x); solve(x**2 < 4, x); solve_univariate_inequality(x**2 - 4 < 0, x, relational=False)
solveset(x**2 - 4, x, domain=S.Reals); linsolve([x + y - 3, x - y - 1], x, y); nonlinsolve([x*y - 6, x + y - 5], [x, y])
simplify(sin(x)**2 + cos(x)**2); simplify((x**2 - 1)/(x - 1)); simplify(sin(x)**2 + cos(x)**2 + tan(x)*cos(x)); trigsimp(sin(x)/cos(x))
expand((x + y)**5); factor(x**4 - 1); apart(1/(x*(x + 1))); cancel((x**2 - 1)/(x + 1)); together(1/x + 1/y); collect(x*y + x, x)
radsimp(1/(sqrt(2) + 1)); nsimplify(0.75); expand_trig(sin(2*x)); Rational(3, 4) + Rational(1, 6); logcombine(log(x) + log(y), force=True)
diff(x**3*sin(x), x); integrate(x**2*exp(x), x); integrate(sin(x), (x, 0, pi)); integrate(x**2 + 2*x, (x, 0, 3)); limit(sin(x)/x, x, 0)
series(exp(x), x, 0, 4); summation(n**2, (n, 1, 10)); summation(n, (n, 1, y)); product(n, (n, 1, 5))
Matrix([[1, 2], [3, 4]]).det(); Matrix([[1, 2], [3, 5]]).inv(); Matrix([[2, 0], [0, 3]]).eigenvals(); Matrix([[2, 1], [1, 2]]).eigenvects()
Matrix([[1, 2, 3], [4, 5, 6]]).rref(); Matrix([[1, 2], [3, 4]]).LUsolve(Matrix([1, 2]))
isprime(97); factorint(360); list(primerange(2, 50)); gcd(12, 18); lcm(4, 6); divisors(60); divisor_count(60); totient(36); prime(10)
binomial(10, 3); factorial(10); nextprime(100); mod_inverse(3, 11); gcd(x**2 - 1, x - 1); primefactors(60)
(x**2).subs(x, 3); sqrt(50); (sqrt(2) + 1).evalf(); N(pi, 20); float(sqrt(2)); sympify("x**2 + 1"); Poly(x**2 + 2*x + 1, x).all_coeffs()
roots(x**2 - 3*x + 2); log(8, 2); latex(x**2/2); str(sqrt(3)/2); Piecewise((x, x > 0), (0, True)).subs(x, 1); lambdify(x, x**2)(3)
dsolve(f(x).diff(x) - f(x), f(x)); rsolve(f(n + 1) - 2*f(n), f(n), {f(0): 1}); Interval(0, 5).intersect(Interval(3, 8))
Point(0, 0).distance(Point(3, 4)); Triangle(Point(0, 0), Point(4, 0), Point(0, 3)).area; Circle(Point(0, 0), 2).area
re(2 + 3*I); Abs(-3); floor(Rational(7, 2)); ceiling(Rational(7, 2)); cos(pi/3); tan(pi/4); exp(1).evalf(); symbols("a:d")
from sympy.ntheory.modular import crt
crt([3, 5, 7], [2, 3, 2])
"""
NUMPY = """
import numpy as np
a = np.array([[2.0, 1.0], [1.0, 3.0]])
np.linalg.solve(a, np.array([1.0, 2.0])); np.linalg.inv(a); np.linalg.det(a); np.linalg.eig(a); (a @ a).tolist(); str(a); repr(a)
np.arange(10).sum(); np.linspace(0, 1, 5).mean(); np.random.rand(3); np.random.default_rng(0).normal(size=3)
np.roots([1, -3, 2]); np.cumsum([1, 2]); np.polyfit([0, 1, 2], [0, 1, 4], 2); np.std([1, 2]); np.unique([1, 1]); np.where(a > 1)
np.sort([2, 1]); np.prod([2, 3]); np.round(1.5); np.median([1, 2]); np.dot([1, 2], [3, 4]); np.concatenate([[1], [2]])
"""
STDLIB = """
import re, json, datetime, fractions, decimal, statistics, collections, dataclasses, typing, random, itertools, math, functools
re.findall(r"\\d+", "a1b22"); re.sub(r"[^a-z]", "", "ab1"); json.dumps({"a": [1, 2.5]}); json.loads("[1]")
str(datetime.date(2020, 1, 1) + datetime.timedelta(days=3)); datetime.datetime.strptime("2020-01-01", "%Y-%m-%d")
fractions.Fraction("1/3") + fractions.Fraction(1, 6); str(decimal.Decimal("1.1") * 2); random.sample(range(9), 3)
statistics.mean([1, 2]); statistics.stdev([1, 2, 4]); statistics.pstdev([1, 2, 4]); statistics.median([1, 2])
collections.namedtuple("P", "x y")(1, 2); collections.Counter("aab").most_common(1); f"{3.14159:.2f}"
"""
# Run through the same code that runs programs: it compiles, encodes and specializes what every program goes through.
HARNESS = b"""
from typing import List
input = {"n": 3, "items": [1, 2.5, "a"], "pair": (1, 2)}
class Box:
    def __init__(self, n: int) -> None:
        self.n = n
def total(n, items, pair):
    # a comment
    found = [i * n for i in items if not isinstance(i, str)]
    return round(sum(found) + Box(n).n, 2)
output = total(**input)
print(f"The answer is {output:.2f}", output)
"""
