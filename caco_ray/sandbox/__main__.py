"""`python -m caco_ray.sandbox file.py` (or `-` for standard input): runs the program, prints the result as one JSON object.

Exit code 0 where the program ended as `ok`, 1 where it did not, 2 for a mistake in the command, 3 where there is no sandbox.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from caco_ray.errors import ConfigError, SandboxUnavailableError
from caco_ray.sandbox import ExecutionResult, Limits, Sandbox


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m caco_ray.sandbox", description="Run one untrusted program and print the result as JSON."
    )
    parser.add_argument("file", help="the program, or - for standard input")
    parser.add_argument("--require", default="L2", help="weakest isolation level, L0..L3 (default %(default)s)")
    parser.add_argument("--allow-unsafe", action="store_true", help="allow --require L0, which isolates nothing")
    parser.add_argument("--cpu-s", type=float, default=5, help="CPU seconds (default %(default)s)")
    parser.add_argument("--wall-s", type=float, default=None, help="wall-clock seconds (default 3x the CPU seconds)")
    parser.add_argument("--memory-mb", type=int, default=512, help="MiB above the warm interpreter (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of random and numpy.random (default %(default)s)")
    return parser.parse_args()


def as_json(result: ExecutionResult) -> str:
    """All fields; `input` and `output` in their exact-type encoding, as objects."""
    fields = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    for name in ("input", "output"):
        text = fields.pop(f"{name}_json")
        fields[name] = None if text is None else json.loads(text)
    return json.dumps(fields)


def main() -> int:
    """Returns the exit code."""
    args = _arguments()
    try:
        source = sys.stdin.buffer.read() if args.file == "-" else Path(args.file).read_bytes()
    except OSError as error:
        print(f"{args.file}: {error.strerror}", file=sys.stderr)
        return 2
    try:
        limits = Limits(cpu_s=args.cpu_s, wall_s=args.wall_s, memory_mb=args.memory_mb)
        with Sandbox(args.require, limits, args.allow_unsafe) as box:
            result = box.run(source.decode("utf-8", "surrogateescape"), seed=args.seed)
    except (ConfigError, ValueError) as error:  # ValueError: the seed
        print(error, file=sys.stderr)
        return 2
    except SandboxUnavailableError as error:
        print(error, file=sys.stderr)
        return 3
    print(as_json(result))
    return 0 if result.status == "ok" else 1


if __name__ == "__main__":
    sys.exit(main())
