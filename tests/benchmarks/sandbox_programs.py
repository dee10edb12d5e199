"""The programs that bench_sandbox.py runs: Code CoT as generators write it, standard library and sympy.

All leave plain values. A sympy value that crossed to the parent by pickle would import sympy there, and every later fork would find it loaded:
the comparison would no longer be with a process that starts cold (`sympy_ratio_preloaded` is that comparison, on purpose).
"""

TRIVIAL = "output = 1"
TRIVIAL_FULL = "output = 1  # numpy: sends it to the interpreter with numpy and sympy"

_STDLIB = [
    "input = {'price': 48, 'discount': 0.25, 'n': 3}\ndef total(price, discount, n):\n    # price after discount\n    each = price * (1 - discount)\n    return each * n\noutput = total(**input)",
    "input = {'a': 84, 'b': 36}\nimport math\ndef f(a, b):\n    g = math.gcd(a, b)\n    return a // g, b // g\noutput = f(**input)",
    "input = {'words': ['tea', 'ate', 'eat', 'tan', 'nat', 'bat']}\nfrom collections import defaultdict\ngroups = defaultdict(list)\nfor w in input['words']:\n    groups[''.join(sorted(w))].append(w)\noutput = sorted(map(sorted, groups.values()))",
    "input = {'n': 30}\ndef fib(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a\noutput = fib(**input)",
    "input = {'limit': 500}\ndef primes(limit):\n    sieve = [True] * (limit + 1)\n    for i in range(2, int(limit ** 0.5) + 1):\n        if sieve[i]:\n            for j in range(i * i, limit + 1, i):\n                sieve[j] = False\n    return sum(sieve[2:])\noutput = primes(**input)\nprint(output)",
    "input = {'text': 'a1b22c333'}\nimport re\noutput = sum(int(x) for x in re.findall(r'\\d+', input['text']))",
    "input = {'values': [3, 1, 4, 1, 5, 9, 2, 6]}\nimport statistics\noutput = round(statistics.pstdev(input['values']), 4)",
    "input = {'n': 5, 'k': 2}\nfrom itertools import combinations\noutput = sum(1 for c in combinations(range(input['n']), input['k']) if sum(c) % 2 == 0)",
    "input = {'p': '1/3', 'q': '1/6'}\nfrom fractions import Fraction\noutput = Fraction(input['p']) + Fraction(input['q'])",
    "input = {'start': '2024-01-31', 'days': 45}\nfrom datetime import date, timedelta\noutput = str(date.fromisoformat(input['start']) + timedelta(days=input['days']))",
]
_SYMPY = [
    "from sympy import symbols, solve, Eq\ninput = {'total': 35, 'legs': 94}\nx, y = symbols('x y')\ns = solve([Eq(x + y, input['total']), Eq(2*x + 4*y, input['legs'])], [x, y])\noutput = int(s[x])",
    "from sympy import *\ninput = {'a': 1, 'b': -7, 'c': 12}\nx = symbols('x')\noutput = [int(r) for r in sorted(solve(input['a']*x**2 + input['b']*x + input['c'], x))]",
    "import sympy as sp\ninput = {'n': 2520}\noutput = int(sp.divisor_count(input['n']))",
    "from sympy import *\ninput = {'upper': 3}\nx = symbols('x')\noutput = int(integrate(x**2 + 2*x, (x, 0, input['upper'])))",
    "from sympy import *\ninput = {'k': 3}\nx = symbols('x')\noutput = str(diff(x**input['k'] * exp(x), x))",
    "from sympy import *\ninput = {'m': [[2, 1], [1, 3]]}\noutput = int(Matrix(input['m']).det())",
    "from sympy import *\ninput = {'n': 10}\nk = symbols('k')\noutput = int(summation(k**2, (k, 1, input['n'])))",
    "from sympy import *\ninput = {'e': 'x**3 - 8'}\nx = symbols('x')\noutput = str(factor(x**3 - 8))",
    "from sympy import *\ninput = {}\nx = symbols('x')\noutput = int(simplify(sin(x)**2 + cos(x)**2 + tan(x)*cos(x)/sin(x)))",
    "from sympy.ntheory.modular import crt\ninput = {'m': [3, 5, 7], 'r': [2, 3, 2]}\noutput = int(crt(input['m'], input['r'])[0])",
]
STDLIB, SYMPY = _STDLIB * 4, _SYMPY * 2
