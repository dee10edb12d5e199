"""What this machine offers and what is missing: python jobs/doctor.py [FOLDER]; exit 1 if the quickstart cannot run here."""

import sys
from pathlib import Path

from caco_ray.cli import guarded


def main() -> int:
    from caco_ray.doctor import examine
    from caco_ray.progress import make_console

    console, healthy = make_console(), True
    for check in examine(Path(sys.argv[1] if len(sys.argv) > 1 else ".").absolute()):
        healthy = healthy and (check.ok or not check.needed)
        mark = "[green]ok[/green]     " if check.ok else "[red]MISSING[/red]" if check.needed else "[dim]-[/dim]      "
        advice = f"  ({check.advice})" if check.advice and not check.ok else ""
        console.print(f"{mark} {check.name:<15} {check.found}{advice}")
    return 0 if healthy else 1


if __name__ == "__main__":
    guarded(main)
