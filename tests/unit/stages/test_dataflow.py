"""What of `input` reaches `output`: held against hundreds of real programs, and the holes that such an analysis may have."""

import ast
import json

import pytest

from caco_ray.sandbox import Limits, Sandbox
from caco_ray.seeds.builtin import builtin_seeds
from caco_ray.stages.dataflow import analyse
from caco_ray.stages.flow import WHOLE, key_node
from caco_ray.stages.program import input_keys, parse

SEEDS = [row["code"] for split in ("train", "heldout") for row in builtin_seeds(split)]


def unused(code):
    tree = parse(code)
    flow = analyse(tree)
    sources = flow.sources("output")
    assert flow.decided
    return [] if WHOLE in sources else [key for key in input_keys(tree) if key_node(key) not in sources]


def test_every_builtin_program_uses_all_of_its_input_and_computes():
    assert len(SEEDS) >= 200
    for code in SEEDS:
        assert unused(code) == [], code
        assert not analyse(parse(code)).is_copied("output"), code


def test_a_key_that_is_added_and_leads_nowhere_is_found_in_every_builtin_program():
    """Passed as a parameter that is never read, or read into a name that is never used."""
    for code in SEEDS:
        changed = code.replace("input = {", 'input = {"spare": 1, ', 1)
        if "**input" in code:
            changed = changed.replace("def solve(", "def solve(spare, ", 1)
        else:
            changed = changed.replace("\n\n", '\n\nspare = input["spare"]\n', 1)
        assert unused(changed) == ["spare"], changed


# Parameters of MBPP solutions that have no influence on the result, checked by hand; `=` marks results that are the argument itself.
MBPP_UNUSED = {
    42: ["n"],
    101: ["n"],
    147: ["n"],
    432: ["height"],
    586: ["n"],
    587: "=",
    636: ["b"],
    760: ["n"],
    840: ["a", "c"],
}


def mbpp_program(task):
    code = task["code"].replace("\r\n", "\n")
    defined = {node.name: node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)}
    calls = [node for node in ast.walk(ast.parse(task["test_list"][0])) if isinstance(node, ast.Call)]
    call = next((c for c in calls if isinstance(c.func, ast.Name) and c.func.id in defined), None)
    if call is None:
        return None
    names = [argument.arg for argument in defined[call.func.id].args.args]
    items = ", ".join(f"{name!r}: {ast.unparse(value)}" for name, value in zip(names, call.args, strict=False))
    return f"input = {{{items}}}\n{code}\noutput = {call.func.id}(**input)\nprint(output)"


def test_on_mbpp_only_parameters_without_influence_are_called_unused(shared_data):
    found = {}
    programs = 0
    for line in (shared_data / "mbpp" / "mbpp.jsonl").read_text().splitlines():
        task = json.loads(line)
        code = mbpp_program(task)
        if code is None:
            continue
        programs += 1
        if unused(code):
            found[task["task_id"]] = unused(code)
        elif analyse(parse(code)).is_copied("output"):
            found[task["task_id"]] = "="
    assert programs > 900
    assert found == MBPP_UNUSED


@pytest.mark.parametrize(
    "code",
    [
        'input = {"a": 1, "b": 2}\nx = input["a"]\noutput = x if input.get("b") else 0',
        'input = {"a": 1, "b": 2}\ntotal = 0\nfor value in input.values():\n    total += value\noutput = total',
        'input = {"a": 1, "b": 2}\noutput = sum(v for k, v in input.items())',
        'input = {"a": 1, "b": 2}\na, b = input.values()\noutput = a + b',
        'input = {"a": 1, "b": 2}\ndata = input\noutput = data["a"] + data["b"]',
        'input = {"a": 1, "b": 2}\ndef solve(d):\n    return d["a"] - d["b"]\noutput = solve(input)',
        'input = {"a": 1, "b": 2}\ndef solve():\n    return input["a"] - input["b"]\noutput = solve()',
        'input = {"a": 1, "b": 2}\ndef solve(a, *, b=0):\n    return a - b\noutput = solve(**input)',
        'input = {"a": 1, "b": 2}\ndef solve(**values):\n    return values["a"] - values["b"]\noutput = solve(**input)',
        'input = {"a": 1, "b": 2}\ndef solve(a, **rest):\n    return a - rest["b"]\noutput = solve(**input)',
        'input = {"a": 1, "b": 2}\nsolve = lambda a, b: a - b\noutput = solve(**input)',
        'input = {"a": 1, "b": 2}\ndef solve(a, b):\n    if b > 1:\n        return 1\n    return a\noutput = solve(**input)',
        'input = {"a": 1, "b": 2}\nn = 0\nwhile True:\n    n += input["a"]\n    if n > input["b"]:\n        break\noutput = n',
        'input = {"a": 1, "b": [2]}\nxs = []\nxs.append(input["a"])\nxs.extend(input["b"])\noutput = len(xs) * xs[0]',
        'import heapq\ninput = {"a": 1, "b": 2}\nh = [input["a"]]\nheapq.heappush(h, input["b"])\noutput = h[0]',
        'input = {"a": [[1]], "b": 2}\ngrid = input["a"]\nfor row in grid:\n    row.append(input["b"])\noutput = sum(map(sum, grid))',
        'input = {"a": 1, "b": 2}\ndef fill(xs, v):\n    xs.append(v)\nxs = [input["a"]]\nfill(xs, input["b"])\noutput = xs',
        'input = {"a": 1, "b": 2}\nd = {}\nd.setdefault(input["a"], []).append(input["b"])\noutput = d',
        'input = {"a": 1, "b": 2}\ntry:\n    output = 1 // (input["a"] - input["b"])\nexcept ZeroDivisionError:\n    output = 0',
        'input = {"a": 1, "b": 2}\ndef f():\n    global t\n    t = input["a"]\nt = 0\nif input["b"] > 1:\n    f()\noutput = t + 1',
        'input = {"a": 1, "b": 2}\nclass S:\n    def __init__(self, a, b):\n        self.a, self.b = a, b\n'
        "    def solve(self):\n        return self.a - self.b\noutput = S(**input).solve()",
        'from dataclasses import dataclass\ninput = {"a": 1, "b": 2}\n@dataclass\nclass S:\n    a: int\n    b: int\n'
        "    def solve(self):\n        return self.a - self.b\ns = S(**input)\noutput = s.solve()",
        'input = {"a": 1, "b": 2}\nmatch input["a"]:\n    case 1:\n        output = input["b"]\n    case _:\n        output = 0',
        'input = {"a": 2, "b": 3}\ndef steps(a, b):\n    for i in range(a):\n        yield i * b\noutput = list(steps(**input))',
        'input = {"a": 2, "b": 3}\noutput = [y for x in range(input["a"]) if (y := x * input["b"]) > 1]',
        'input = {"a": 2, "b": 3}\ninput["c"] = input["a"] * input["b"]\noutput = input["c"] + 1',
        'input = {"a": 2, "b": 3}\noutput = f"{input[\'a\']}:{input[\'b\']}"',
    ],
)
def test_use_is_seen_whatever_way_it_takes(code):
    assert unused(code) == []


@pytest.mark.parametrize(
    "code,keys",
    [
        ('input = {"a": 1, "b": 2}\noutput = input["a"] + 1', ["b"]),
        ('input = {"a": 1, "b": 2}\ndef solve(a, b):\n    return a + 1\noutput = solve(**input)', ["b"]),
        ('input = {"a": 1, "b": 2}\ndef solve(a, b):\n    return a + 1\noutput = solve(input["a"], input["b"])', ["b"]),
        ('input = {"a": 1, "b": 2}\ndef solve(a, b):\n    c = b * 2\n    return a + 1\noutput = solve(**input)', ["b"]),
        ('input = {"a": 1, "b": 2}\nprint(input["b"])\noutput = input["a"] + len(input)', ["b"]),
        ('input = {"a": 1, "b": 2}\nif "b" in input:\n    pass\noutput = input["a"] + 1', ["b"]),
        ('input = dict(a=1, b=2)\noutput = input["a"] + 1', ["b"]),
    ],
)
def test_a_key_without_influence_is_found(code, keys):
    assert unused(code) == keys


@pytest.mark.parametrize("trick", ["eval('a + b')", "globals()['input']['a']", "vars()['input']['a']"])
def test_a_program_that_reaches_its_names_by_text_is_not_decided(trick):
    assert not analyse(parse(f'input = {{"a": 1, "b": 2}}\noutput = {trick}')).decided


def test_a_very_deep_program_is_not_decided_rather_than_a_crash():
    tree = parse("output = " + "+".join(["1"] * 3000))
    assert tree is None or not analyse(tree).decided


def changed(value):
    """Another value of the same type, or None where there is none to make."""
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return value * 1.5 + 1
        case str():
            return value[1:] + "z"
        case [first, *rest]:
            return type(value)([changed(first), *rest])
    return None


def test_a_value_whose_change_changes_the_output_is_never_called_unused(shared_data):
    """The analysis against the fact: MBPP programs, run with one value of `input` changed at a time."""
    runs = []
    for line in (shared_data / "mbpp" / "mbpp.jsonl").read_text().splitlines()[::6]:
        code = mbpp_program(json.loads(line))
        literal = parse(code).body[0].value if code else None
        if literal is None or any(isinstance(node, ast.Name | ast.Call) for node in ast.walk(literal)):
            continue
        given = ast.literal_eval(literal)
        body = code.split("\n", 1)[1]
        runs.append((code, None, code))
        runs += [(code, key, f"input = { ({**given, key: changed(value)})!r}\n{body}") for key, value in given.items()]
    with Sandbox(require="L0", allow_unsafe=True, limits=Limits(cpu_s=2)) as sandbox:
        results = sandbox.run_many([program for _, _, program in runs])
    outputs = {(code, key): result.output_json for (code, key, _), result in zip(runs, results, strict=True) if result.status == "ok"}
    influential = [(code, key) for (code, key), output in outputs.items() if key and output != outputs.get((code, None), output)]
    assert len(influential) > 100
    assert [(key, code) for code, key in influential if key in unused(code)] == []
