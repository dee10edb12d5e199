"""A KubeRay RayJob per point: a copy of one that is known to be good, with the point's name and command.

What else lies beside that RayJob (network policies, volumes) is shared by all points and written once.
"""

import copy
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from caco_ray.cli import CONF
from caco_ray.errors import ClusterError, ConfigError
from caco_ray.sweep.points import Point

Object = dict[str, Any]
BASE = CONF.parent / "k8s" / "base"
PART_OF = "app.kubernetes.io/part-of"
SHARED = "shared.yaml"
_LASTING = ("persistentVolumeClaim", "nfs", "hostPath", "csi")  # volumes that outlive a pod
_PLAIN = {"apiVersion", "kind", "resources"}  # of a kustomization that is no more than a list of files
_OURS = re.compile(r"caco-[0-9a-f]{16}(-\d+)?\.yaml")
_RENDER_TIMEOUT_S = 60


def read_objects(path: Path) -> list[Object]:
    """All objects of a rendered file, or of a kustomization's folder (by kubectl, where it is more than a list of files).

    Raises:
        ConfigError: it cannot be read, or is not rendered and there is no kubectl.
        ClusterError: kubectl refuses it.
    """
    try:
        if path.is_file():
            return _objects(path.read_text())
        kustomization = yaml.safe_load((path / "kustomization.yaml").read_text())
        files = [path / name for name in kustomization.get("resources", ())]
        if kustomization.keys() <= _PLAIN and all(file.is_file() for file in files):
            return [each for file in files for each in _objects(file.read_text())]
    except (OSError, yaml.YAMLError, AttributeError) as error:
        raise ConfigError(f"k8s={path}: not readable as manifests ({' '.join(str(error).split())})") from error
    if shutil.which("kubectl") is None:
        raise ConfigError(
            f"k8s={path}: kubectl is needed to render it; elsewhere: kubectl kustomize {path} > jobs.yaml, then k8s=jobs.yaml"
        )
    return _objects(kubectl("kustomize", str(path), timeout_s=_RENDER_TIMEOUT_S))


def split_rayjob(objects: Sequence[Object], origin: object) -> tuple[Object, list[Object]]:
    """The one RayJob, and the rest.

    Raises:
        ConfigError: none, or several.
    """
    jobs = [each for each in objects if each.get("kind") == "RayJob"]
    if len(jobs) != 1:
        raise ConfigError(f"k8s={origin}: one RayJob is expected, there are {len(jobs)}")
    if not shlex.split(jobs[0].get("spec", {}).get("entrypoint", "")):
        raise ConfigError(f"k8s={origin}: the RayJob has no spec.entrypoint")
    return jobs[0], [each for each in objects if each is not jobs[0]]


def rayjob(template: Object, point: Point, name: str) -> Object:
    """The manifest of one point. KubeRay hands `entrypoint` to a shell and `ray job submit`, which quote it alike."""
    made = copy.deepcopy(template)
    metadata = made.setdefault("metadata", {})
    metadata["name"] = name
    metadata.setdefault("labels", {})[PART_OF] = "caco-ray"
    metadata.setdefault("annotations", {}).update({"caco-ray/point": point.label, "caco-ray/run-dir": point.run_dir})
    program = shlex.split(template["spec"]["entrypoint"])[:2]  # python and the path of jobs/run.py in the image
    made["spec"]["entrypoint"] = shlex.join([*program, *point.overrides])
    return made


def check_run_dir(template: Object, point: Point) -> None:
    """A run must not lie in a pod, which goes with its job.

    Raises:
        ConfigError: says which folders last.
    """
    if "://" in point.run_dir:
        return
    pod = template["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    lasting = {volume["name"] for volume in pod.get("volumes", ()) if any(kind in volume for kind in _LASTING)}
    mounts = [each["mountPath"] for each in pod["containers"][0].get("volumeMounts", ()) if each["name"] in lasting]
    if not any(Path(point.run_dir).is_relative_to(mount) for mount in mounts):
        where = f"mounted are: {', '.join(mounts)}" if mounts else "none is mounted"
        raise ConfigError(f"run.dir={Path(point.run_dir).parent}: not on a volume that outlives the pods ({where}); or give a URL")


def write(folder: Path, shared: Sequence[Object], jobs: Sequence[Object]) -> None:
    """One file per job, and one for what they share; those of an earlier sweep are deleted."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        if _OURS.fullmatch(old.name):
            old.unlink()
    if shared:
        (folder / SHARED).write_text(yaml.safe_dump_all(shared, sort_keys=False, width=1000))
    for job in jobs:
        write_job(folder, job)


def write_job(folder: Path, job: Object) -> Path:
    file = folder / f"{job['metadata']['name']}.yaml"
    file.write_text(yaml.safe_dump(job, sort_keys=False, width=1000))
    return file


def kubectl(*arguments: str, timeout_s: float = 120) -> str:
    """What it prints.

    Raises:
        ClusterError: it fails, or takes too long.
    """
    try:
        done = subprocess.run(["kubectl", *arguments], capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"kubectl {arguments[0]}: no answer in {timeout_s:.0f} s; is the context of kubectl right?") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ClusterError(f"kubectl {' '.join(arguments[:2])}: {lines[-1]}")
    return done.stdout


def _objects(text: str) -> list[Object]:
    return [each for each in yaml.safe_load_all(text) if isinstance(each, dict)]
