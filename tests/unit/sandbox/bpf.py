"""A small machine for classic BPF, as far as seccomp filters use it; it knows nothing of how ours are assembled."""

from collections.abc import Sequence


def simulate(program: Sequence[tuple[int, int, int, int]], number: int, arch: int, args: Sequence[int] = ()) -> int:
    """The action for one system call. Numbers follow linux/filter.h and seccomp(2).

    Raises:
        AssertionError: the program reads or jumps outside, or uses another instruction.
    """
    padded = [*args, 0, 0, 0, 0, 0, 0][:6]
    words = [number & 0xFFFFFFFF, arch, 0, 0]
    for value in padded:
        words += [value & 0xFFFFFFFF, value >> 32 & 0xFFFFFFFF]
    accumulator = at = 0
    while True:
        assert 0 <= at < len(program), "jumped out of the program"
        code, true, false, operand = program[at]
        assert 0 <= true <= 255 and 0 <= false <= 255 and 0 <= operand <= 0xFFFFFFFF
        if code == 0x06:  # RET K
            return operand
        if code == 0x20:  # LD W ABS
            assert operand % 4 == 0 and operand < 64
            accumulator = words[operand // 4]
            at += 1
            continue
        tests = {0x15: accumulator == operand, 0x35: accumulator >= operand, 0x45: accumulator & operand != 0}
        assert code in tests, f"instruction {code:#x}"
        at += 1 + (true if tests[code] else false)
