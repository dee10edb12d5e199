"""What one program may use. Every number is checked once, at construction."""

from dataclasses import dataclass

from caco_ray.errors import ConfigError

RANGES: dict[str, tuple[float, float]] = {
    "cpu_s": (0.1, 3600),
    "wall_s": (0.1, 36000),
    "memory_mb": (32, 65536),
    "output_kb": (1, 16384),
    "stdout_kb": (1, 16384),
}
MAX_WORKERS = 256
_MAX_SOURCE = 16 << 20


@dataclass(frozen=True)
class Limits:
    """Bounds of one program.

    cpu_s: CPU seconds (user + system, all threads).
    wall_s: seconds from the start of the program, 3x `cpu_s` unless given: a smaller factor would let the load of the machine decide
        whether a busy program ends as `timeout_cpu` or as `timeout_wall`.
    memory_mb: address space above that of the warm interpreter.
    output_kb: encoded size of `input` and of `output`, each.
    stdout_kb: what the program may print, in UTF-8; one byte more ends it as `output_too_large`.

    Raises:
        ConfigError: a value is not a number or out of range.
    """

    cpu_s: float = 5
    wall_s: float | None = None
    memory_mb: int = 512
    output_kb: int = 64
    stdout_kb: int = 64

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if name == "wall_s" and value is None:
                continue
            kinds: tuple[type, ...] = (int, float) if name.endswith("_s") else (int,)
            if type(value) not in kinds or not low <= value <= high:
                kind = "a number" if name.endswith("_s") else "an integer"
                raise ConfigError(f"sandbox limit {name}={value!r}: must be {kind} from {low:g} to {high:g}")
        if self.wall_s is not None and self.wall_s < self.cpu_s:
            raise ConfigError(f"sandbox limit wall_s={self.wall_s:g}: must be at least cpu_s={self.cpu_s:g}")

    @property
    def deadline_s(self) -> float:
        """Wall-clock seconds that a program gets."""
        return 3 * self.cpu_s if self.wall_s is None else self.wall_s

    @property
    def source_bytes(self) -> int:
        """Length of a program, in UTF-8: an eighth of the memory, since reading it takes several times its size, and 16 MiB at most."""
        return min(_MAX_SOURCE, (self.memory_mb << 20) // 8)
