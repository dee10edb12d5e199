"""Submit a sweep, follow it, collect what it made."""

import shutil
from pathlib import Path

from rich.console import Console
from rich.text import Text

from caco_ray.errors import ConfigError, Interrupted
from caco_ray.store import Folder
from caco_ray.sweep.follow import Sweep
from caco_ray.sweep.job import Target
from caco_ray.sweep.manifests import BASE, check_run_dir, kubectl, rayjob, read_objects, split_rayjob, write
from caco_ray.sweep.options import SweepOptions
from caco_ray.sweep.page import render
from caco_ray.sweep.points import Point, digest
from caco_ray.sweep.results import Reader, Result, read_result, to_parquet
from caco_ray.sweep.table import Board, print_table

PARQUET, PAGE = "sweep.parquet", "sweep.html"


def submit_sweep(options: SweepOptions, points: list[Point], console: Console) -> int:
    """All points, once each; 0 only if every one succeeded (or, with `wait=false`, was submitted).

    Raises:
        UserError: one line: what is wrong, where, what to do. Jobs that were submitted go on; the same command finds them.
    """
    base = points[0].run_dir.rsplit("/", 1)[0]
    _say(console, f"{len(points)} point{'s' * (len(points) > 1)} in {base}")
    if not options.wait:
        _check_at_once(options, points)
    target = _ray(options) if options.target == "ray" else _k8s(options, points, console)
    if target is None:
        return 0
    sweep = Sweep(points, target, options.retries)
    if not options.wait:
        return _detach(sweep, console)
    _follow(sweep, options.parallel or (1 if options.target == "ray" else len(points)), console)
    results = _results(sweep)
    print_table(console, results)
    _collect(Folder(base), results, console)
    return 0 if sweep.succeeded else 1


def _check_at_once(options: SweepOptions, points: list[Point]) -> None:
    """Without anybody who waits all points start at once. On one Ray cluster those that hold GPUs would keep each other waiting for them.

    Raises:
        ConfigError: unless `parallel` says that there is room for all.
    """
    if options.parallel and options.parallel < len(points):
        raise ConfigError(f"parallel={options.parallel} needs wait=true for {len(points)} points: somebody must start the next one")
    if options.target != "ray" or options.parallel or len(points) == 1:
        return
    from caco_ray.cluster.needs import pools, stages_of

    keys = dict.fromkeys(
        pool.name for point in points for stage in stages_of(point.config) for pool in pools(point.config, stage) if pool.gpus
    )
    if keys:
        raise ConfigError(
            f"wait=false starts all {len(points)} points at once, and {', '.join(keys)} hold GPUs: all but one would stop after "
            f"cluster.handover_timeout_s; leave it out, or give parallel={len(points)} if the cluster has GPUs for all"
        )


def _ray(options: SweepOptions) -> Target:
    from caco_ray.sweep.ray_target import RayTarget  # after the points are known to be right: importing Ray takes seconds

    return RayTarget(options.address)


def _k8s(options: SweepOptions, points: list[Point], console: Console) -> Target | None:
    """Write the manifests; None if they are not to be applied."""
    if options.apply and shutil.which("kubectl") is None:
        raise ConfigError("apply=true needs kubectl, which is not in PATH; without it this command only writes the manifests")
    origin = Path(options.k8s or BASE)
    template, shared = split_rayjob(read_objects(origin), origin)
    for point in points:
        check_run_dir(template, point)
    folder = Path(options.manifests or f"runs/manifests/{digest(' '.join(point.job_id for point in points))}").absolute()
    write(folder, shared, [rayjob(template, point, point.job_id) for point in points])
    _say(console, f"manifests: {folder}")
    if not options.apply:
        _say(console, f"to submit them: kubectl apply -f {folder}   (or this command with apply=true, which also waits and collects)")
        return None
    from caco_ray.sweep.k8s_target import K8sTarget

    if shared:
        kubectl("apply", "-f", str(folder / "shared.yaml"))
    return K8sTarget(template, folder)


def _detach(sweep: Sweep, console: Console) -> int:
    sweep.start(len(sweep.points))
    for point in sweep.points:
        job = sweep.jobs[point.job_id]
        _say(console, f"{job.state:<9} {point.label}  {sweep.target.advice(job)}")
    _say(console, f"{sweep.submitted} submitted; the same command with wait=true waits for them and collects.")
    return 0


def _follow(sweep: Sweep, limit: int, console: Console) -> None:
    try:
        with Board(console, Reader()) as board:
            sweep.follow(limit, board)
    except KeyboardInterrupt:
        _say(console, "The submitted jobs go on by themselves.")
        raise Interrupted from None
    for point in sweep.points:
        job = sweep.jobs[point.job_id]
        if not job.succeeded:
            _say(console, f"{job.state}: {point.label}: {job.message}  ({sweep.target.advice(job)})", style="bold red")
    _say(console, f"{sweep.submitted} submitted." if sweep.submitted else "Nothing was submitted: every point has its job.")


def _results(sweep: Sweep) -> list[Result]:
    return [read_result(point, sweep.job(point)) for point in sweep.points]


def _collect(base: Folder, results: list[Result], console: Console) -> None:
    if all(result.report is None for result in results):
        _say(console, f"Nothing to collect: no run can be seen in {base} from here; the same command on a machine that sees it collects.")
        return
    for result in results:
        if result.fault:
            _say(console, f"{result.point.label}: {result.fault}", "bold red")
    base.write(PARQUET, to_parquet(results))
    base.write(PAGE, render(str(base), results).encode())
    _say(console, f"collected: {base}/{PARQUET} and {base}/{PAGE}")


def _say(console: Console, text: str, style: str = "") -> None:
    """A line as it is: paths may hold what `rich` takes for markup."""
    console.print(Text(text, style=style))
