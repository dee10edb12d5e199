"""What one node of a cluster is and has: `look` runs there, in a task of its own.

It travels by value and answers with plain values: the node may have another caco_ray, or none. Nothing here raises for what is missing.
"""

import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

SEEN, UNSEEN = "seen", "unseen"
Model = tuple[str, str | None]  # a folder, or a hub id and its revision


def look(run_dir: str, marker: str, node: str, require: str | None, models: list[Model], timeout_s: float) -> dict[str, Any]:
    """Facts about this node. `marker`: a file under `run_dir` that the driver wrote and beside which this node writes one of its own;
    `require`: the sandbox level to try, None for none; `models`: that should be there."""
    said, level = _sandbox(require) if require is not None else ("", "")
    return {
        **versions(),
        "gpus": _gpus(),
        "shm_bytes": _shm_bytes(),
        "ray_disk_used": _disk_used("/tmp/ray"),
        "absent": [model for model in models if not is_there(*model)],
        "sandbox": level,
        "sandbox_said": said,
        **_storage(run_dir, marker, node, timeout_s),
    }


def versions() -> dict[str, str]:
    """Of Python, Ray and caco_ray; `code`: a hash of caco_ray's source files, empty where there are none."""
    return {"Python": platform.python_version(), "Ray": importlib.metadata.version("ray"), **_own_version()}


def _own_version() -> dict[str, str]:
    try:
        import caco_ray
    except ImportError:
        return {"caco_ray": "none", "code": ""}
    root, digest = Path(str(caco_ray.__file__)).parent, hashlib.blake2b(digest_size=8)
    for file in sorted(root.rglob("*.py")):
        digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return {"caco_ray": caco_ray.__version__, "code": digest.hexdigest()}


def _gpus() -> int:
    """That the NVIDIA driver shows: what Ray was told at its start may not be there."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in listed.splitlines())


def _shm_bytes() -> int:
    try:
        return shutil.disk_usage("/dev/shm").total
    except OSError:
        return 0


def _disk_used(folder: str) -> float:
    """Fraction."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return 0.0
    return 1 - usage.free / usage.total


def is_there(path: str, revision: str | None) -> bool:
    """A folder, or a model of the hub in this node's cache."""
    if os.path.isabs(path):
        return os.path.isdir(path)
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError:
        return False
    try:
        snapshot_download(path, revision=revision, local_files_only=True)
    except LocalEntryNotFoundError:
        return False
    return True


def _sandbox(require: str) -> tuple[str, str]:
    """Why the level is not given, or the level that is."""
    try:
        from caco_ray.errors import CacoError
        from caco_ray.sandbox import Sandbox
    except ImportError:
        return "caco_ray is not installed", ""
    try:
        with Sandbox(require=require, allow_unsafe=True) as box:
            return "", box.level
    except CacoError as error:
        return str(error), ""


def _storage(run_dir: str, marker: str, node: str, timeout_s: float) -> dict[str, Any]:
    """In a thread: a store behind a closed network, or a file server that is gone, answers after minutes or never."""
    answers: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: answers.append(_tried(run_dir, marker, node)), daemon=True)
    thread.start()
    thread.join(timeout_s)
    return answers[0] if answers else {"storage": f"{run_dir}: no answer in {timeout_s:g} s", "free_bytes": None}


def _tried(run_dir: str, marker: str, node: str) -> dict[str, Any]:
    """`storage`: `seen`, `unseen` (another folder than the driver's) or what went wrong. `free_bytes`: of a disk."""
    try:
        from caco_ray.errors import CacoError
        from caco_ray.store import Folder
        from caco_ray.store.reach import check_reachable
    except ImportError:
        return {"storage": "caco_ray is not installed", "free_bytes": None}
    try:
        check_reachable(run_dir)
        folder = Folder(run_dir)
        folder.read(marker)
        folder.write(f"{os.path.dirname(marker)}/{node}", b"")
        free = shutil.disk_usage(folder.local_path).free if folder.is_local else None
    except FileNotFoundError:
        return {"storage": UNSEEN, "free_bytes": None}
    except (CacoError, OSError) as error:
        return {"storage": str(error), "free_bytes": None}
    return {"storage": SEEN, "free_bytes": free}
