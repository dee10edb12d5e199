"""A sweep's RayJobs hold against the same schema and operator's rules as those of k8s/; a stand-in for kubectl plays the cluster."""

import importlib.util
import json
import os
import re
import shlex
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from kustomize import render
from rich.console import Console
from test_manifests import K8S, OVERLAYS, broken_rules, validator  # noqa: F401

from caco_ray.errors import ClusterError, ConfigError
from caco_ray.sweep import Point, expand, parse_options, submit_sweep
from caco_ray.sweep.k8s_target import job_of
from caco_ray.sweep.manifests import BASE, rayjob, read_objects, split_rayjob

FAKE = ("profile=fake", "run.dir=/runs/sweep")
SWEEP = "sampling.temperature=0.7,0.9 seeds.domains=[a,b]"
KUBECTL = '''#!{python}
"""Objects in a folder instead of a cluster: apply, get, and nothing else."""
import json, pathlib, sys, yaml
folder = pathlib.Path({folder!r})
verb, *rest = sys.argv[1:]
(folder / "calls").open("a").write(" ".join(sys.argv[1:]) + "\\n")
if (folder / "down").exists():
    sys.exit("Unable to connect to the server: dial tcp 10.0.0.1:443: i/o timeout")
if verb == "apply":
    for each in yaml.safe_load_all(open(rest[1])):
        (folder / (each["kind"] + "." + each["metadata"]["name"])).write_text(json.dumps(each))
elif verb == "get" and "-l" in rest:
    print(json.dumps({{"items": [json.loads(path.read_text()) for path in folder.glob("RayJob.*")]}}))
elif verb == "get":
    path = folder / ("RayJob." + rest[1])
    if path.exists():
        found = json.loads(path.read_text())
        ends = json.loads((folder / "ends").read_text())
        found["status"] = ends.get(rest[1], {{"jobStatus": "SUCCEEDED", "jobDeploymentStatus": "Complete"}})
        path.write_text(json.dumps(found))
        print(json.dumps(found))
else:
    sys.exit("unknown command " + verb)
'''


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of the stand-in: its objects, `calls` that were made, `ends` of jobs by name."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    (folder / "ends").write_text("{}")
    program = tmp_path / "bin" / "kubectl"
    program.parent.mkdir()
    program.write_text(KUBECTL.format(python=sys.executable, folder=str(folder)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr("caco_ray.sweep.follow.POLL_S", 0.01)
    return folder


@cache
def points_of(*overrides: str) -> list[Point]:
    return expand(SWEEP, overrides)


def submit(*arguments: str) -> int:
    options, overrides = parse_options(["target=k8s", *FAKE, *arguments])
    return submit_sweep(options, points_of(*overrides), Console(quiet=True))


def manifests(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: yaml.safe_load(path.read_text()) for path in folder.glob("caco-*.yaml")}


@pytest.mark.parametrize("overlay", [None, *OVERLAYS])
def test_a_point_s_manifest_keeps_schema_and_rules(overlay: str | None, validator: Any) -> None:  # noqa: F811
    objects = read_objects(BASE) if overlay is None else render(K8S / "overlays" / overlay)
    template, shared = split_rayjob(objects, "here")
    for point in points_of(*FAKE):
        made = rayjob(template, point, f"{point.job_id}-2")
        assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(made)] == []
        assert list(broken_rules(made)) == []
        python, script, *arguments = shlex.split(made["spec"]["entrypoint"])
        assert (python, script, tuple(arguments)) == ("python", "/app/jobs/run.py", point.overrides)
        labels = template["metadata"]["labels"].items()
        assert labels <= made["metadata"]["labels"].items(), "the overlay's queue stays"
    assert {each["kind"] for each in shared} >= {"NetworkPolicy", "PersistentVolumeClaim"}


def test_the_template_is_not_changed() -> None:
    template, _ = split_rayjob(read_objects(BASE), BASE)
    before = json.dumps(template)
    rayjob(template, points_of(*FAKE)[0], "caco-x")
    assert json.dumps(template) == before


def test_manifests_are_written_and_nothing_is_submitted(cluster: Path, tmp_path: Path) -> None:
    folder = tmp_path / "manifests"
    assert submit(f"manifests={folder}") == 0
    points = points_of(*FAKE)
    assert set(manifests(folder)) == {point.job_id for point in points}
    assert len(list(yaml.safe_load_all((folder / "shared.yaml").read_text()))) == 3
    assert not (cluster / "calls").exists()
    (folder / "mine.yaml").write_text("kept: true")
    submit(f"manifests={folder}", "seed=7")
    assert set(manifests(folder)) == {point.job_id for point in points_of(*FAKE, "seed=7")} and (folder / "mine.yaml").exists()


def test_applied_waited_for_and_tried_again_only_where_it_failed(cluster: Path, tmp_path: Path) -> None:
    folder, (one, two) = tmp_path / "manifests", points_of(*FAKE)
    failed = {"jobStatus": "FAILED", "jobDeploymentStatus": "Failed", "message": "exit code 1"}
    (cluster / "ends").write_text(json.dumps({two.job_id: failed}))
    assert submit(f"manifests={folder}", "apply=true") == 1
    assert {path.name for path in cluster.glob("RayJob.*")} == {f"RayJob.{one.job_id}", f"RayJob.{two.job_id}"}
    assert (cluster / "NetworkPolicy.caco-nodes").exists()
    assert submit(f"manifests={folder}", "apply=true") == 0
    applied = [
        call.split("/")[-1] for call in (cluster / "calls").read_text().splitlines() if call.startswith("apply") and "shared" not in call
    ]
    assert applied == [f"{one.job_id}.yaml", f"{two.job_id}.yaml", f"{two.job_id}-2.yaml"]
    assert submit(f"manifests={folder}", "apply=true") == 0
    assert len(list(cluster.glob("RayJob.*"))) == 3


def test_a_cluster_that_does_not_answer_is_one_line(cluster: Path, tmp_path: Path) -> None:
    (cluster / "down").touch()
    with pytest.raises(ClusterError, match="Unable to connect to the server") as raised:
        submit(f"manifests={tmp_path}", "apply=true")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("deployment", "job", "state"),
    [
        ("", "", "PENDING"),
        ("Initializing", "", "PENDING"),
        ("Suspended", "", "PENDING"),
        ("Running", "PENDING", "PENDING"),
        ("Running", "RUNNING", "RUNNING"),
        ("Retrying", "FAILED", "PENDING"),
        ("Complete", "SUCCEEDED", "SUCCEEDED"),
        ("Complete", "STOPPED", "STOPPED"),
        ("Complete", "FAILED", "FAILED"),
        ("Failed", "FAILED", "FAILED"),
        ("Failed", "", "FAILED"),
        ("ValidationFailed", "", "FAILED"),
    ],
)
def test_states_of_the_operator(deployment: str, job: str, state: str) -> None:
    status = {"jobStatus": job, "jobDeploymentStatus": deployment, "startTime": "2026-11-21T10:00:00Z", "endTime": "2026-11-21T10:01:30Z"}
    made = job_of({"metadata": {"name": "caco-1"}, "status": {**status, "message": "backoffLimit must be\n0"}})
    assert made.message == ("" if state in ("PENDING", "RUNNING") else "backoffLimit must be 0")
    assert made.worth_retrying == (state == "FAILED" and deployment != "ValidationFailed")
    assert (made.state, made.seconds) == (state, 90.0)


@pytest.mark.parametrize(
    ("job", "message", "code", "again"),
    [
        ("FAILED", "Job entrypoint command failed with exit code 2, last available logs (truncated to 20,000 chars):\nerror: x", 2, False),
        ("FAILED", "Job entrypoint command failed with exit code 75. No logs available.", 75, True),
        ("FAILED", "Job entrypoint command failed with exit code -9, last available logs: failed with exit code 2", -9, True),
        ("FAILED", "Job supervisor actor died: a program said that it failed with exit code 2", None, True),
        ("SUCCEEDED", "Job finished successfully.", 0, False),
        ("STOPPED", "Job was intentionally stopped.", None, False),
    ],
)
def test_a_mistake_of_the_user_is_not_tried_again(job: str, message: str, code: int | None, again: bool) -> None:
    """KubeRay's message is Ray's own, which begins as it is written in Ray's source."""
    deployment = "Failed" if job == "FAILED" else "Complete"
    made = job_of({"metadata": {"name": "caco-1"}, "status": {"jobStatus": job, "jobDeploymentStatus": deployment, "message": message}})
    assert (made.state, made.exit_code, made.worth_retrying) == (job, code, again)


def test_how_ray_says_the_exit_code() -> None:
    spec = importlib.util.find_spec("ray")
    assert spec and spec.submodule_search_locations
    source = (Path(spec.submodule_search_locations[0]) / "dashboard/modules/job/job_supervisor.py").read_text()
    said = re.findall(r'message = \(\s*"([^"]*)"\s*f"([^"{]*){return_code}', source)
    assert said and {"".join(each) for each in said} == {"Job entrypoint command failed with exit code "}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run.dir=/elsewhere/x",), "run.dir=/elsewhere/x: not on a volume that outlives the pods (mounted are: /runs)"),
        (("k8s=/not/here",), "k8s=/not/here: not readable as manifests"),
        ((f"k8s={K8S / 'base/volumes.yaml'}",), "one RayJob is expected, there are 0"),
        ((f"k8s={K8S / 'components/monitoring/caco-dashboard.json'}",), "one RayJob is expected, there are 0"),
    ],
)
def test_what_cannot_be_a_job_is_one_line(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        submit(f"manifests={tmp_path}", *arguments)
    assert message in str(raised.value) and "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_an_overlay_needs_kubectl_or_is_rendered_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overlay = K8S / "overlays/small"
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="kubectl is needed to render it"):
        submit(f"manifests={tmp_path}", f"k8s={overlay}")
    rendered = tmp_path / "jobs.yaml"
    rendered.write_text(yaml.safe_dump_all(render(overlay)))
    assert submit(f"manifests={tmp_path / 'm'}", f"k8s={rendered}") == 0
    groups = [job["spec"]["rayClusterSpec"]["workerGroupSpecs"] for job in manifests(tmp_path / "m").values()]
    assert [[group["groupName"] for group in each] for each in groups] == [["cpu"], ["cpu"]]
    with pytest.raises(ConfigError, match="apply=true needs kubectl"):
        submit(f"manifests={tmp_path / 'm'}", f"k8s={rendered}", "apply=true")
