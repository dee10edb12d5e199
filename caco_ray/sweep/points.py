"""The points of a sweep: Hydra's grammar and its basic sweeper's product, each point composed and validated before any is submitted.

A point's folder is named by what its rows depend on (`fingerprint.py`): the same point with other numbers of GPUs, another `until` or
more patience goes on where it was. Its job is named by the whole config: the same job is not started twice.
"""

import hashlib
import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from caco_ray.cli import CONF, allow_new_key, resolved
from caco_ray.config import Config, load_config
from caco_ray.errors import ConfigError
from caco_ray.fingerprint import fingerprint
from caco_ray.preflight import check_values
from caco_ray.rounds import bounded
from caco_ray.stage_config import is_off

ON_THE_CLUSTER = "cluster.address=auto"  # of the job; profiles for one machine start a Ray of their own
_MAX_READABLE = 60  # characters of a folder's name before its hash
_UNQUOTED = re.compile(r"[\w/.:@%+-]+")  # Hydra takes such values without quotes


@dataclass(frozen=True)
class Point:
    """One run. `swept`: key and value as the sweep gives them; `overrides`: arguments of `jobs/run.py`; `config` with its own `run.dir`."""

    swept: dict[str, Any]
    overrides: tuple[str, ...]
    config: Config

    @property
    def label(self) -> str:
        return " ".join(f"{key}={shown(value)}" for key, value in self.swept.items()) or "(no sweep)"

    @property
    def run_dir(self) -> str:
        return self.config.run.dir

    @property
    def name(self) -> str:
        return self.run_dir.rsplit("/", 1)[1]

    @cached_property
    def job_id(self) -> str:
        """`caco-` and the hash of the config, `run.dir` included: also a name that Kubernetes takes."""
        return f"caco-{digest(self.config.model_dump_json())}"


def expand(sweep: str, overrides: Sequence[str]) -> list[Point]:
    """Every point of `sweep` (as behind Hydra's `-m`, split as a shell splits), with `overrides` for all of them.

    Raises:
        ConfigError: one line that names the point, the key and the value.
    """
    with initialize_config_dir(str(CONF), version_base="1.3", job_name="submit"):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        common = [ON_THE_CLUSTER, *_common(parser, overrides)]
        combinations = _combinations(parser, sweep)
        points = [_point(parser, common, list(texts), f"point {n} of {len(combinations)}") for n, texts in enumerate(combinations, start=1)]
    return _placed(points)


def shown(value: object) -> str:
    """A swept value as a person writes it: `100000` for Hydra's `100000.0`."""
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else str(value)


def digest(text: str) -> str:
    """16 hex digits."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _common(parser: OverridesParser, overrides: Sequence[str]) -> list[str]:
    for parsed in _parsed(parser, overrides):
        if parsed.is_sweep_override():
            raise ConfigError(f"{_key(parsed)}: several values for all points; put them into sweep='{_key(parsed)}=...'")
    return list(overrides)


def _combinations(parser: OverridesParser, sweep: str) -> list[list[str]]:
    try:
        texts = shlex.split(sweep)
    except ValueError as error:
        raise ConfigError(f"sweep={sweep}: {str(error).lower()}") from None
    parsed = _parsed(parser, texts)
    if any(_key(override) == "run.dir" for override in parsed):
        raise ConfigError("sweep: run.dir cannot be swept; each point gets a folder of its own under it")
    try:
        (batch,) = BasicSweeper.split_arguments(parsed, None)
    except HydraException as error:
        raise ConfigError(f"sweep={sweep}: {_one_line(error)}") from None
    if not batch:
        raise ConfigError(f"sweep={sweep}: no points; a list of values is empty")
    return batch


def _point(parser: OverridesParser, common: list[str], own: list[str], which: str) -> Point:
    """With the folder of all points as its `run.dir` still."""
    swept = {_key(parsed): parsed.value() for parsed in _parsed(parser, own)}
    where = f"{which} ({' '.join(text.lstrip('+') for text in own)}): " if own else ""
    try:
        config = load_config(resolved(compose("config", [allow_new_key(text) for text in (*common, *own)])))
        check_values(config, _wanted(config))
    except (ConfigError, HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"{where}{_one_line(error)}") from None
    if config.cluster.address == "local":
        raise ConfigError(f"{where}cluster.address=local: a submitted job runs on the cluster that it is submitted to; leave it out")
    kept = [text for text, parsed in zip(common, _parsed(parser, common), strict=True) if _key(parsed) != "run.dir"]
    return Point(swept, (*kept, *own), config)


def _wanted(config: Config) -> set[str]:
    return {stage for _, stage in bounded(config) if not is_off(config, stage)}


def _placed(points: list[Point]) -> list[Point]:
    """Each point in its own folder. Points that differ in placement alone make the same rows: their folders are told apart by all of it."""
    first: dict[str, int] = {}
    for number, point in enumerate(points, start=1):
        if (same := first.setdefault(point.config.model_dump_json(), number)) != number:
            raise ConfigError(f"sweep: points {same} and {number} ({point.label}) are the same")
    makes = [_rows_of(point.config) for point in points]
    alike = Counter(makes)
    hashes = [made if alike[made] == 1 else digest(point.config.model_dump_json()) for made, point in zip(makes, points, strict=True)]
    return [_in_folder(point, f"{_readable(point)}{name[:12]}") for point, name in zip(points, hashes, strict=True)]


def _in_folder(point: Point, name: str) -> Point:
    folder = f"{point.run_dir.rstrip('/')}/{name}"
    config = point.config.model_copy(update={"run": point.config.run.model_copy(update={"dir": folder})})
    return replace(point, overrides=(*point.overrides, f"run.dir={_quoted(folder)}"), config=config)


def _rows_of(config: Config) -> str:
    """Hash of what the rows depend on; files count by name, for they need not be readable from here."""
    seeds, select = config.seeds.model_copy(update={"path": None}), config.select.model_copy(update={"evaluation_paths": ()})
    blind = config.model_copy(update={"seeds": seeds, "select": select})
    return digest(json.dumps([fingerprint(blind, "evaluate"), config.seeds.path, config.select.evaluation_paths]))


def _readable(point: Point) -> str:
    words = "_".join(f"{re.split('[.@/]', key)[-1]}-{shown(value)}" for key, value in point.swept.items())
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", words)[:_MAX_READABLE].strip("-._")
    return f"{name}_" if name else ""


def _quoted(text: str) -> str:
    """As a value in Hydra's grammar."""
    if _UNQUOTED.fullmatch(text):
        return text
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _parsed(parser: OverridesParser, texts: Sequence[str]) -> list[Override]:
    return list(_each(parser, texts))


def _each(parser: OverridesParser, texts: Sequence[str]) -> Iterator[Override]:
    for text in texts:
        try:
            yield parser.parse_override(allow_new_key(text))
        except HydraException as error:
            raise ConfigError(f"{text}: {_one_line(error)}") from None


def _key(override: Override) -> str:
    return str(override.get_key_element()).lstrip("+~")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
