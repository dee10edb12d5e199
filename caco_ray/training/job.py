"""`jobs/train.py`: one fine-tuning outside a run, on Ray or on the ranks of torchrun, into a folder of its own."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from rich.console import Console

from caco_ray.embedded import embedded_model
from caco_ray.errors import RunDirError
from caco_ray.progress import StageBar, format_seconds, make_console
from caco_ray.store import Folder
from caco_ray.store.dataset import differences
from caco_ray.store.lease import Lease
from caco_ray.store.transfer import CACHE_ENV
from caco_ray.training.job_config import TrainJobConfig
from caco_ray.training.placement import SAME_CHECKPOINTS
from caco_ray.training.sources import open_data
from caco_ray.training.torchrun import is_torchrun, train_here
from caco_ray.training.types import WORK_FOLDER, Step, TrainResult
from caco_ray.training.work import finished, read_result

_CONFIG_FILE = "config.json"
_LEASE_FOLDER = "driver"  # see store/lease.py


def run_train_job(config: TrainJobConfig) -> None:
    """Train unless it has been done; a killed job goes on from its last checkpoint. One driver at a time: the first rank holds the output.

    Raises:
        UserError: one line: what is wrong, where, what to do.
    """
    output, first = Path(config.output), os.environ.get("RANK", "0") == "0"
    console = make_console() if first else Console(quiet=True)
    if (done := read_result(Folder(str(output)))) is not None:
        _check_same(config, output)
        if first and (output / WORK_FOLDER).exists():  # a kill left it
            with _held(config, output, console):
                finished(Folder(str(output)))
        console.print(f"Nothing to do: {output}/model is complete ({_summary(done)}).")
        return
    with _held(config, output, console) if first else nullcontext(), StageBar(console, "train", 1, "steps") as bar:
        result = _train(config, output, lambda step: bar.set(step.step, step.steps, _note(step)))
    console.print(f"[bold]{output}/model[/bold]  {_summary(result)}  [dim]{format_seconds(result.seconds)} in steps[/dim]")


def _train(config: TrainJobConfig, output: Path, on_step: Callable[[Step], None]) -> TrainResult:
    base = _base(config.base)
    data = [open_data(entry.path, config.training, entry.weight, entry.domain, entry.roles) for entry in config.data]
    if is_torchrun():
        return train_here(config.training, base=base, data=data, output_dir=output, on_step=on_step)
    from caco_ray.cluster.session import connected  # Ray takes seconds to import: ranks of torchrun have no need of it

    with connected(config.cluster):
        from caco_ray.cluster.session import check_room
        from caco_ray.training.trainer import train_model

        training, workers = config.training, config.training.workers
        check_room("training", {"workers": (float(workers * training.cpus_per_worker), float(workers * training.gpus_per_worker))})
        return train_model(config.training, base=base, data=data, output_dir=output, on_step=on_step)


def _base(base: str) -> str:
    if base != "embedded":
        return base
    return str(embedded_model(Path(os.environ.get(CACHE_ENV, ".cache")).absolute() / "models"))


@contextmanager
def _held(config: TrainJobConfig, output: Path, console: Console) -> Iterator[None]:
    """The output, for this driver alone."""
    _check_same(config, output)  # before anything is written into a folder of somebody else
    with Lease(Folder(str(output)), console.print):
        _claim(config, output)
        yield


def _claim(config: TrainJobConfig, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    _check_same(config, output)
    Folder(str(output)).write(_CONFIG_FILE, (config.model_dump_json(indent=1) + "\n").encode())


def _check_same(config: TrainJobConfig, output: Path) -> None:
    """Raises RunDirError where the folder belongs to another training, or to something else."""
    known = output / _CONFIG_FILE
    if not known.exists():
        if foreign := [name for name in Folder(str(output)).names() if name != _LEASE_FOLDER]:
            raise RunDirError(f"output={output}: holds {foreign[0]!r}, which no training made; choose another folder")
        return
    changed = differences(_makes(json.loads(known.read_text())), _makes(config.model_dump(mode="json")))
    if changed:
        raise RunDirError(f"output={output}: made by another config ({'; '.join(changed)}); choose another output, or set it back")


def _makes(config: dict[str, object]) -> dict[str, object]:
    """The part of the config that the model depends on."""
    training = config["training"]
    assert isinstance(training, dict)
    return {
        **{key: value for key, value in config.items() if key not in ("cluster", "training", "output")},
        "training": {key: value for key, value in training.items() if key not in SAME_CHECKPOINTS},
    }


def _note(step: Step) -> str:
    heldout = f", held-out {step.heldout_loss:.3f}" if step.heldout_loss is not None else ""
    mfu = f", MFU {step.mfu:.1%}" if step.mfu is not None else ""
    return f"loss {step.loss:.3f}{heldout}, {step.tokens_per_s:,.0f} tokens/s{mfu}, {format_seconds(step.seconds_left)} left"


def _summary(result: TrainResult) -> str:
    heldout = f", held-out {result.heldout_loss:.3f}" if result.heldout_loss is not None else ""
    early = ", stopped early" if result.stopped_early else ""
    mfu = f", MFU {result.mfu:.1%}" if result.mfu is not None else ""
    figures = f"{result.examples:,} examples, {result.steps:,} steps, {result.tokens_per_s:,.0f} tokens/s{mfu}"
    return f"{figures}, loss {result.final_loss:.3f}{heldout}{early}{result.remarks}"
