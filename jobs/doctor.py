"""What a machine or a cluster offers, and what is missing; exit 1 if something is.

python jobs/doctor.py [FOLDER]                                          this machine, for the quickstart
python jobs/doctor.py cluster=true [address=auto] profile=... run.dir=... [key=value ...]    every node, for the run with these arguments
"""

import sys
from pathlib import Path

from caco_ray.cli import guarded, run_job
from caco_ray.config import Config
from caco_ray.errors import ConfigError


def main() -> int:
    from caco_ray.doctor import examine
    from caco_ray.progress import make_console

    console, healthy = make_console(), True
    for check in examine(_folder(sys.argv[1:])):
        healthy = healthy and (check.ok or not check.needed)
        mark = "[green]ok[/green]     " if check.ok else "[red]MISSING[/red]" if check.needed else "[dim]-[/dim]      "
        advice = f"  ({check.advice})" if check.advice and not check.ok else ""
        console.print(f"{mark} {check.name:<15} {check.found}{advice}")
    return 0 if healthy else 1


def _folder(arguments: list[str]) -> Path:
    """Raises ConfigError where a run is meant, which is a matter of its cluster."""
    for argument in arguments:
        if "=" in argument and not Path(argument).exists():
            raise ConfigError(f"{argument}: give cluster=true (written so) as well to look at a cluster; else the one argument is a folder")
    return Path(arguments[0] if arguments else ".").absolute()


def of_cluster(config: Config) -> int:
    from caco_ray.cluster.nodes import print_cluster
    from caco_ray.progress import make_console

    return print_cluster(config, make_console())


if __name__ == "__main__":
    if "cluster=true" in sys.argv:
        given = [f"cluster.{argument}" if argument.startswith("address=") else argument for argument in sys.argv[1:]]
        sys.argv[1:] = ["cluster=job", *(argument for argument in given if argument != "cluster=true")]
        run_job(of_cluster)
    guarded(main)
