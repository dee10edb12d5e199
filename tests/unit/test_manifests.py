"""The manifests: every file is used, valid against KubeRay's schema with unknown fields refused, and keeps the operator's own rules."""

import copy
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from kustomize import patch, render

from caco_ray.metrics import METRICS as STAGE_METRICS
from caco_ray.metrics import RAY_METRICS, TRAINING

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
SCHEMA = ROOT.parent / "shared/k8s/ray.io_rayjobs.v1.schema.json"
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir())
METRICS = (*STAGE_METRICS, *TRAINING)
EXPORTED = {
    f"ray_{metric.name}{end}" for metric in METRICS for end in (("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",))
}


def closed(schema: Any) -> Any:
    """The schema as the API server's strict validation sees it: unknown fields are errors, int-or-string is either."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    result = {
        key: {name: closed(each) for name, each in value.items()} if key == "properties" else closed(value) for key, value in schema.items()
    }
    if "properties" in schema and "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        result["additionalProperties"] = False
    return result


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    if not SCHEMA.exists():
        pytest.skip("KubeRay's schema is not beside the repository (../shared/k8s)")
    schema = closed(json.loads(SCHEMA.read_text()))
    schema["properties"] |= {"apiVersion": {"const": "ray.io/v1"}, "kind": {"const": "RayJob"}, "metadata": {"type": "object"}}
    return jsonschema.Draft202012Validator(schema)


def of_kind(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [each for each in objects if each["kind"] == kind]


def job(overlay: str) -> dict[str, Any]:
    (found,) = of_kind(render(K8S / "overlays" / overlay), "RayJob")
    return found


def groups(rayjob: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = rayjob["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def broken_rules(rayjob: dict[str, Any]) -> Iterator[str]:
    """What KubeRay v1.7 refuses in ray-operator/controllers/ray/utils/validation.go and no schema says."""
    spec, cluster = rayjob["spec"], rayjob["spec"]["rayClusterSpec"]
    mode = spec.get("submissionMode", "K8sJobMode")
    workers, pods = cluster["workerGroupSpecs"], [each["template"]["spec"] for each in groups(rayjob)]
    if len(rayjob["metadata"]["name"]) > 47:
        yield "name is too long"
    if spec.get("suspend") and not spec.get("shutdownAfterJobFinishes"):
        yield "suspend needs shutdownAfterJobFinishes"
    if spec.get("ttlSecondsAfterFinished") and not spec.get("shutdownAfterJobFinishes"):
        yield "ttlSecondsAfterFinished needs shutdownAfterJobFinishes"
    if spec.get("backoffLimit") and (spec.get("clusterSelector") or mode == "InteractiveMode"):
        yield "backoffLimit cannot go with clusterSelector or InteractiveMode"
    if mode == "SidecarMode" and (spec.keys() & {"submitterConfig", "submitterPodTemplate"} or pods[0].get("restartPolicy") != "Never"):
        yield "SidecarMode takes no submitter and a head that is not restarted"
    if "upgradeStrategy" in cluster:
        yield "upgradeStrategy cannot be set by a RayJob"
    if cluster.get("autoscalerOptions", {}).get("version") == "v2" and any(pod.get("restartPolicy") != "Never" for pod in pods):
        yield "autoscaler v2 needs restartPolicy Never"
    if len({each["groupName"] for each in workers}) < len(workers):
        yield "group names must differ"
    if any(each["minReplicas"] > each["maxReplicas"] for each in workers):
        yield "minReplicas above maxReplicas"
    if any("labels" in each.get("rayStartParams", {}) for each in groups(rayjob)):
        yield "labels belong to the group, not to rayStartParams"
    if any(not pod["containers"] for pod in pods):
        yield "a group without a container"
    fault_tolerance = cluster.get("gcsFaultToleranceOptions", {})
    if fault_tolerance.get("backend", "redis") == "redis" and fault_tolerance and not fault_tolerance.get("redisAddress"):
        yield "gcsFaultToleranceOptions needs redisAddress"
    if cluster.get("authOptions", {}).get("mode") == "token" and tuple(map(int, cluster["rayVersion"].split(".")[:2])) < (2, 52):
        yield "tokens need Ray 2.52"


def test_every_file_is_used() -> None:
    read: set[Path] = set()
    for overlay in OVERLAYS:
        render(K8S / "overlays" / overlay, read)
    assert {path.resolve() for path in K8S.rglob("*") if path.is_file()} == read


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_schema(overlay: str, validator: jsonschema.Draft202012Validator) -> None:
    assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(job(overlay))] == []


@pytest.mark.parametrize(
    "path",
    ["/spec/backofLimit", "/spec/rayClusterSpec/headGroupSpec/template/spec/volums", "/spec/rayClusterSpec/workerGroupSpecs/0/label"],
)
def test_unknown_fields_are_refused(path: str, validator: jsonschema.Draft202012Validator) -> None:
    assert not validator.is_valid(patch(job("paper"), [{"op": "add", "path": path, "value": 1}]))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_operator_rules(overlay: str) -> None:
    assert list(broken_rules(job(overlay))) == []


@pytest.mark.parametrize(
    ("overlay", "path", "value", "rule"),
    [
        ("paper", "/metadata/name", "c" * 48, "name is too long"),
        ("production", "/spec/shutdownAfterJobFinishes", False, "suspend needs"),
        ("paper", "/spec/shutdownAfterJobFinishes", False, "ttlSecondsAfterFinished needs"),
        ("paper", "/spec/clusterSelector", {"ray.io/cluster": "c"}, "backoffLimit cannot"),
        ("paper", "/spec/submissionMode", "SidecarMode", "SidecarMode takes"),
        ("paper", "/spec/rayClusterSpec/upgradeStrategy", {"type": "None"}, "upgradeStrategy"),
        ("paper", "/spec/rayClusterSpec/workerGroupSpecs/0/template/spec/restartPolicy", "Always", "autoscaler v2"),
        ("paper", "/spec/rayClusterSpec/workerGroupSpecs/0/groupName", "cpu", "group names"),
        ("paper", "/spec/rayClusterSpec/workerGroupSpecs/0/minReplicas", 99, "minReplicas above"),
        ("paper", "/spec/rayClusterSpec/workerGroupSpecs/0/rayStartParams/labels", "pool=gpu", "labels belong"),
        ("paper", "/spec/rayClusterSpec/headGroupSpec/template/spec/containers", [], "without a container"),
        ("production", "/spec/rayClusterSpec/gcsFaultToleranceOptions/redisAddress", "", "needs redisAddress"),
        ("paper", "/spec/rayClusterSpec/rayVersion", "2.51.0", "tokens need"),
    ],
)
def test_rules_can_fail(overlay: str, path: str, value: object, rule: str) -> None:
    assert any(
        each.startswith(rule) or rule in each for each in broken_rules(patch(job(overlay), [{"op": "add", "path": path, "value": value}]))
    )


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_suit_the_sandbox(overlay: str) -> None:
    rayjob = job(overlay)
    assert rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in groups(rayjob):
        pod, mounted = group["template"]["spec"], set()
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] != 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        for container in pod["containers"]:
            context, resources = container["securityContext"], container["resources"]
            assert (
                not context["allowPrivilegeEscalation"]
                and context["readOnlyRootFilesystem"]
                and context["capabilities"] == {"drop": ["ALL"]}
            )
            assert resources["requests"] == resources["limits"] and {"cpu", "memory"} <= resources["limits"].keys()
            mounted |= {each["mountPath"]: each["name"] for each in container["volumeMounts"]}.items()
        volumes = {each["name"]: each for each in pod["volumes"]}
        shared = volumes[dict(mounted)["/dev/shm"]]["emptyDir"]
        assert shared["medium"] == "Memory"
        # Ray takes 30% of the memory for its objects, at most 95% of a /dev/shm of over 10 GB; what /dev/shm does not hold goes to a disk.
        size, memory = (
            int(text.removesuffix("Gi")) for text in (shared["sizeLimit"], pod["containers"][0]["resources"]["limits"]["memory"])
        )
        assert size >= 0.3 * memory or size >= 10, group.get("groupName", "head")
        assert {"/tmp", "/runs"} <= dict(mounted).keys()
        assert pod["automountServiceAccountToken"] == (group is groups(rayjob)[0])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_secrets_only_by_reference(overlay: str) -> None:
    for each in render(K8S / "overlays" / overlay):
        assert each["kind"] != "Secret"
    for group in groups(job(overlay)):
        for variable in group["template"]["spec"]["containers"][0]["env"]:
            assert not re.search("KEY|SECRET|TOKEN|PASSWORD", variable["name"]) or "valueFrom" in variable
    options = job(overlay)["spec"]["rayClusterSpec"].get("gcsFaultToleranceOptions", {})
    assert "value" not in options.get("redisPassword", {})


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_policy_covers_every_node(overlay: str) -> None:
    objects = render(K8S / "overlays" / overlay)
    policies = {each["metadata"]["name"]: each["spec"] for each in of_kind(objects, "NetworkPolicy")}
    wanted = policies["caco-nodes"]["podSelector"]["matchLabels"].items()
    assert all(wanted <= each["template"]["metadata"]["labels"].items() for each in groups(job(overlay)))
    assert set(policies["caco-nodes"]["policyTypes"]) == {"Ingress", "Egress"}
    for spec in policies.values():
        if spec["podSelector"]["matchLabels"].get("caco-ray/role") != "head":
            assert all(rule.get("to") for rule in spec.get("egress", [])), "an open way out of a sandbox node"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_entrypoint_is_a_valid_run(overlay: str) -> None:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from caco_ray.config import load_config

    python, script, *overrides = shlex.split(job(overlay)["spec"]["entrypoint"])
    assert python == "python" and (ROOT / Path(script).relative_to("/app")).is_file()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = load_config(OmegaConf.to_container(compose("config", overrides), resolve=True))
    assert config.cluster.address == "auto"


def test_versions_match_the_lock() -> None:
    assert f"ray=={job('paper')['spec']['rayClusterSpec']['rayVersion']}\n" in (ROOT / "docker/cpu.lock").read_text()
    assert "ray==" + job("paper")["spec"]["rayClusterSpec"]["rayVersion"] in (ROOT / "docker/gpu.lock").read_text()


def expressions() -> list[str]:
    rules = yaml.safe_load((K8S / "components/monitoring/prometheusrule.yaml").read_text())
    board = json.loads((K8S / "components/monitoring/caco-dashboard.json").read_text())
    alerts = [rule["expr"] for group in rules["spec"]["groups"] for rule in group["rules"]]
    return alerts + [target["expr"] for panel in board["panels"] for target in panel["targets"]]


def test_alerts_and_panels_use_metrics_that_exist() -> None:
    used = {name for each in expressions() for name in re.findall(r"\bray_(?!cluster\b)\w+", each)}
    assert used <= EXPORTED | set(RAY_METRICS), used - EXPORTED - set(RAY_METRICS)
    assert {name.removesuffix("_bucket") for name in used} >= {f"ray_{metric.name}" for metric in METRICS}, "a metric that nobody looks at"


def test_metrics_are_well_formed() -> None:
    for metric in METRICS:
        assert re.fullmatch("caco_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert bool(metric.boundaries) == (metric.kind == "histogram") and list(metric.boundaries) == sorted(metric.boundaries)


def test_patch_refuses_what_is_not_there() -> None:
    rayjob = copy.deepcopy(job("paper"))
    with pytest.raises(KeyError):
        patch(rayjob, [{"op": "replace", "path": "/spec/nothing", "value": 1}])
    with pytest.raises(ValueError, match="patch fails"):
        patch(rayjob, [{"op": "test", "path": "/spec/backoffLimit", "value": 99}])


@pytest.mark.parametrize("overlay", ["paper", "production", "object-store"])
def test_nodes_hold_the_sandbox_of_the_profile(overlay: str) -> None:
    """Without autoscaling the nodes must be there from the start."""
    cluster = job(overlay)["spec"]["rayClusterSpec"]
    sandbox = yaml.safe_load((ROOT / "conf/profile/cluster.yaml").read_text())["sandbox"]
    (group,) = [each for each in cluster["workerGroupSpecs"] if each["groupName"] == "cpu"]
    nodes = group["maxReplicas"] if cluster["enableInTreeAutoscaling"] else group["replicas"]
    cpus = int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    assert nodes * cpus >= sandbox["actors"] * sandbox["workers"]
