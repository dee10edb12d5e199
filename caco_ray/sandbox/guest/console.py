"""What a program finds as its standard streams: text over bytes, as usual, kept in memory and bounded."""

import builtins
import io
import sys
from typing import Any, NoReturn


class _FullError(BaseException):
    """The program printed more than it may; not an Exception, so that `except Exception` does not swallow it."""


class _Kept(io.RawIOBase):
    """Keeps the first `max_bytes` of what is written, then raises at every write."""

    name, mode = "<stdout>", "wb"

    def __init__(self, max_bytes: int) -> None:
        self.data = bytearray()
        self.max_bytes = max_bytes
        self.full = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        with memoryview(data).cast("B") as written:
            left = self.max_bytes - len(self.data)
            self.data += written[:left]
            if len(written) > left:
                self.full = True
                raise _FullError
            return len(written)


class Console:
    """Standard output and error, in the order written. For one program; made before the fork that runs it, where it costs nothing."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._kept = _Kept(max_bytes)
        self._reader = io.TextIOWrapper(io.BytesIO(), "utf-8")
        self._writer = io.TextIOWrapper(self._kept, "utf-8", "replace", newline="\n", write_through=True)

    def attach(self) -> None:
        """Becomes sys.stdout and sys.stderr; standard input is empty."""
        sys.stdout = sys.stderr = self._writer
        sys.stdin = self._reader

    @property
    def full(self) -> bool:
        return self._kept.full

    def text(self) -> str:
        """What was printed; bytes that are no text are replaced."""
        try:  # noqa: SIM105  contextlib would cost every fork some pages
            self._writer.flush()
        except (ValueError, _FullError):  # closed or detached by the program; full
            pass
        return self._kept.data.decode("utf-8", "replace")


def add_exits() -> None:
    """`exit` and `quit`, which Python's `site` would have added."""
    for name in ("exit", "quit"):
        setattr(builtins, name, _leave)


def _leave(code: object = None) -> NoReturn:
    raise SystemExit(code)
