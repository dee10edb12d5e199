"""Address space kept back from the program, so that one that has eaten all of its own can still be described."""

import mmap

_LEAST = 8 << 20
_PER_OUTPUT_BYTE, _PER_STDOUT_BYTE = 64, 16  # Python objects on the way from a value to its encoding


class Reserve:
    """A mapping that nothing can touch: it counts against RLIMIT_AS, and costs no memory and nothing at a fork."""

    def __init__(self, output_bytes: int, stdout_bytes: int) -> None:
        size = _LEAST + _PER_OUTPUT_BYTE * output_bytes + _PER_STDOUT_BYTE * stdout_bytes
        self._mapping = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=0)

    def release(self) -> None:
        """Gives it back; in a fork, that of the fork alone."""
        self._mapping.close()
