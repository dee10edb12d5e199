"""A strict reader of the part of kustomize that k8s/ uses: resources, components, JSON 6902 patches, images, configMapGenerator from files.

Whatever it does not know is an error, so that a test never passes over a part of a manifest.
"""

import copy
from pathlib import Path
from typing import Any

import yaml

KEYS = {"apiVersion", "kind", "resources", "components", "patches", "images", "configMapGenerator"}
Object = dict[str, Any]


def render(folder: Path, read: set[Path] | None = None) -> list[Object]:
    """All objects of an overlay; adds the files that it read to `read`."""
    return _apply(folder, [], set() if read is None else read)


def _apply(folder: Path, objects: list[Object], read: set[Path]) -> list[Object]:
    path = (folder / "kustomization.yaml").resolve()
    read.add(path)
    kustomization = yaml.safe_load(path.read_text())
    if unknown := kustomization.keys() - KEYS:
        raise ValueError(f"{path}: {unknown}")
    for name in kustomization.get("resources", []):
        objects = objects + _resource(folder / name, read)
    for name in kustomization.get("components", []):
        objects = _apply(folder / name, objects, read)
    for generator in kustomization.get("configMapGenerator", []):
        objects = [*objects, _config_map(folder, generator, read)]
    for entry in kustomization.get("patches", []):
        (index,) = [i for i, candidate in enumerate(objects) if _matches(candidate, entry["target"])]
        objects = [*objects[:index], patch(objects[index], yaml.safe_load(entry["patch"])), *objects[index + 1 :]]
    new = {each["name"]: each["newName"] for each in kustomization.get("images", [])}
    objects = [_with_images(each, new) for each in objects]
    names = [(each["kind"], each["metadata"]["name"]) for each in objects]
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: an object twice in {names}")
    return objects


def _resource(path: Path, read: set[Path]) -> list[Object]:
    if path.is_dir():
        return _apply(path, [], read)
    read.add(path.resolve())
    return list(yaml.safe_load_all(path.read_text()))


def _config_map(folder: Path, generator: Object, read: set[Path]) -> Object:
    options = generator["options"]
    read.update((folder / name).resolve() for name in generator["files"])
    data = {name: (folder / name).read_text() for name in generator["files"]}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"], "labels": options["labels"]}, "data": data}


def _with_images(value: Any, new: dict[str, str]) -> Any:
    """The images of all containers under their new names; the tags stay."""
    if isinstance(value, list):
        return [_with_images(each, new) for each in value]
    if not isinstance(value, dict):
        return value
    value = {key: _with_images(each, new) for key, each in value.items()}
    for container in value.get("containers", []):
        name, tag = container["image"].rsplit(":", 1)
        container["image"] = f"{new.get(name, name)}:{tag}"
    return value


def _matches(candidate: Object, target: Object) -> bool:
    version = "/".join(filter(None, (target.get("group"), target["version"])))
    return (candidate["apiVersion"], candidate["kind"], candidate["metadata"]["name"]) == (version, target["kind"], target["name"])


def patch(document: Object, operations: list[Object]) -> Object:
    """RFC 6902: add, replace, remove, test."""
    document = copy.deepcopy(document)
    for operation in operations:
        *way, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
        parent: Any = document
        for part in way:
            parent = parent[int(part) if isinstance(parent, list) else part]
        _operate(parent, int(last) if isinstance(parent, list) else last, operation)
    return document


def _operate(parent: Any, key: Any, operation: Object) -> None:
    if operation["op"] == "add" and isinstance(parent, list):
        parent.insert(key, operation["value"])
    elif operation["op"] == "add":
        parent[key] = operation["value"]
    elif operation["op"] == "replace":
        parent[key]  # must be there
        parent[key] = operation["value"]
    elif operation["op"] == "remove":
        del parent[key]
    elif operation["op"] == "test" and parent[key] == operation["value"]:
        return
    else:
        raise ValueError(f"patch fails: {operation}")
