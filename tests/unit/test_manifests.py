"""The manifests: every file is used, valid against KubeRay's schema with unknown fields refused, and keeps the operator's own rules."""

import copy
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
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
    # getServicePorts in controllers/ray/common/service.go: the ports that the head's container lists replace the default ones.
    ports = {port["name"]: port["containerPort"] for each in pods[0]["containers"][:1] for port in each.get("ports", [])}
    if ports and not {"gcs-server": 6379, "dashboard": 8265}.items() <= ports.items():
        yield "the head's Service has no dashboard or gcs-server: no job could be submitted"
    if "submitterPodTemplate" in spec and spec["submitterPodTemplate"]["spec"].get("restartPolicy") not in ("Never", "OnFailure"):
        yield "the submitter is a Job: restartPolicy Never or OnFailure"
    fault_tolerance = cluster.get("gcsFaultToleranceOptions", {})
    if fault_tolerance.get("backend", "redis") == "redis" and fault_tolerance and not fault_tolerance.get("redisAddress"):
        yield "gcsFaultToleranceOptions needs redisAddress"
    if cluster.get("authOptions", {}).get("mode") == "token" and tuple(map(int, cluster["rayVersion"].split(".")[:2])) < (2, 52):
        yield "tokens need Ray 2.52"


def test_every_file_is_used() -> None:
    read: set[Path] = set()
    for overlay in OVERLAYS:
        render(K8S / "overlays" / overlay, read)
    assert {path.resolve() for path in K8S.rglob("*") if path.is_file()} == read | {K8S / "README.md", K8S / "volume.yaml"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubectl_renders_the_same(overlay: str) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run(["kubectl", "kustomize", str(K8S / "overlays" / overlay)], capture_output=True, text=True, check=True)

    def ordered(objects: Any) -> list[str]:
        return sorted(json.dumps(each, sort_keys=True) for each in objects)

    assert ordered(yaml.safe_load_all(done.stdout)) == ordered(render(K8S / "overlays" / overlay))


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
        (
            "paper",
            "/spec/rayClusterSpec/headGroupSpec/template/spec/containers/0/ports",
            [{"name": "metrics", "containerPort": 8080}],
            "the head's Service has no dashboard",
        ),
        ("paper", "/spec/submitterPodTemplate/spec/restartPolicy", "Always", "the submitter is a Job"),
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
        for container in pod["containers"]:
            resources = container["resources"]
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
        autoscaler = group is groups(rayjob)[0] and rayjob["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"]
        assert pod["automountServiceAccountToken"] == autoscaler


def pods(rayjob: dict[str, Any]) -> list[dict[str, Any]]:
    """Templates of all pods that a RayJob starts."""
    return [each["template"] for each in groups(rayjob)] + [rayjob["spec"]["submitterPodTemplate"]]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_container_is_restricted(overlay: str) -> None:
    rayjob = job(overlay)
    specs = [each["spec"] for each in pods(rayjob)] + [yaml.safe_load((K8S / "volume.yaml").read_text())["spec"]]
    for spec in specs:
        assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] != 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    containers = [each for spec in specs for each in spec["containers"]]
    autoscaler = rayjob["spec"]["rayClusterSpec"].get("autoscalerOptions")
    for each in [*containers, *([autoscaler] if autoscaler else [])]:
        context = each["securityContext"]
        assert not context["allowPrivilegeEscalation"] and context["capabilities"] == {"drop": ["ALL"]}
        assert context["readOnlyRootFilesystem"] and "/tmp" in {mount["mountPath"] for mount in each["volumeMounts"]}


def test_the_volume_is_that_of_the_runs() -> None:
    volume, rayjob = yaml.safe_load((K8S / "volume.yaml").read_text())["spec"], job("paper")
    head = rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    for what in (volume, head):
        (claim,) = [each["persistentVolumeClaim"]["claimName"] for each in what["volumes"] if "persistentVolumeClaim" in each]
        assert claim == "caco-runs" and {"name": "runs", "mountPath": "/runs"} in what["containers"][0]["volumeMounts"]
    mine, theirs = ({each["name"]: each["value"] for each in what["containers"][0]["env"]} for what in (volume, head))
    assert mine["HF_HOME"] == theirs["HF_HOME"] and theirs["HF_HUB_OFFLINE"] == "1" and "HF_HUB_OFFLINE" not in mine
    assert volume["containers"][0]["image"] == head["containers"][0]["image"]
    assert mine["HF_TOKEN_PATH"].startswith("/tmp/"), "a token on the volume is one on every node"


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
    assert all(wanted <= each["metadata"]["labels"].items() for each in pods(job(overlay)))
    assert set(policies["caco-nodes"]["policyTypes"]) == {"Ingress", "Egress"}
    for spec in policies.values():
        if spec["podSelector"]["matchLabels"].get("caco-ray/role") != "head":
            assert all(rule.get("to") for rule in spec.get("egress", [])), "an open way out of a sandbox node"
        elif not job(overlay)["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"]:
            assert all(rule.get("to") for rule in spec.get("egress", [])), "an open way out, which nobody needs"


HELM = {"app.kubernetes.io/name": "kuberay-operator", "app.kubernetes.io/component": "kuberay-operator"}
KUSTOMIZE = {"app.kubernetes.io/name": "kuberay", "app.kubernetes.io/component": "kuberay-operator"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_policy_lets_in_whoever_drives_the_job(overlay: str) -> None:
    """The submitter's pod has the labels of its template (KubeRay marks only the Job), the operator those of how it was installed."""
    submitter, *_ = (each["metadata"]["labels"] for each in reversed(pods(job(overlay))))
    head = job(overlay)["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["metadata"]["labels"]
    policies = [each["spec"] for each in of_kind(render(K8S / "overlays" / overlay), "NetworkPolicy")]
    rules = [rule for spec in policies if spec["podSelector"]["matchLabels"].items() <= head.items() for rule in spec.get("ingress", [])]

    def let_in(labels: dict[str, str], same_namespace: bool) -> bool:
        return any(
            peer["podSelector"]["matchLabels"].items() <= labels.items() and (same_namespace or peer.get("namespaceSelector") == {})
            for rule in rules
            if {"port": 8265, "protocol": "TCP"} in rule.get("ports", [{"port": 8265, "protocol": "TCP"}])
            for peer in rule["from"]
        )

    assert let_in(submitter, same_namespace=True)
    assert let_in(HELM, same_namespace=False) and let_in(KUSTOMIZE, same_namespace=False)
    assert not let_in({"app.kubernetes.io/name": "prometheus"}, same_namespace=False)


def test_gvisor_asks_for_no_landlock() -> None:
    """gVisor's kernel has no Landlock: a level that needs it would make the preflight refuse every node."""
    for overlay in OVERLAYS:
        rayjob = job(overlay)
        under = any(each["template"]["spec"].get("runtimeClassName") == "gvisor" for each in groups(rayjob))
        assert under == ("sandbox.require=L1" in shlex.split(rayjob["spec"]["entrypoint"])), overlay


@pytest.mark.parametrize("path", sorted(K8S.glob("components/*/kustomization.yaml")), ids=lambda path: path.parent.name)
def test_a_patch_by_index_first_looks_what_is_there(path: Path) -> None:
    for entry in yaml.safe_load(path.read_text()).get("patches", []):
        looked: set[str] = set()
        for operation in yaml.safe_load(entry["patch"]):
            place = re.match(r".*/(workerGroupSpecs|volumes)/\d+", operation["path"])
            if operation["op"] == "test":
                looked.add(operation["path"].rsplit("/", 1)[0])
            elif operation["op"] != "test" and place:
                assert place[0] in looked, operation
            elif operation["path"] == "/spec/entrypoint":
                assert "/spec" in looked, "another component's entrypoint would be lost"


def test_readme_names_what_must_be_there_before() -> None:
    readme = (K8S / "README.md").read_text()
    text = "".join(json.dumps(render(K8S / "overlays" / overlay)) for overlay in OVERLAYS)
    wanted = set(re.findall(r'"(?:secretKeyRef|secretRef)": {[^}]*"name": "([^"]+)"', text))
    wanted |= set(re.findall(r'"kueue.x-k8s.io/queue-name": "([^"]+)"', text)) | set(re.findall(r'"runtimeClassName": "([^"]+)"', text))
    wanted |= {"nvidia.com/gpu.present", "ReadWriteMany", "PodMonitor", "release", "caco-redis:6379"}
    assert len(wanted) > 7
    assert {each for each in wanted if each not in readme} == set()
    assert {overlay for overlay in OVERLAYS if f"`{overlay}`" not in readme} == set()


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
    assert set(RAY_METRICS) <= used and {name.removeprefix("ray_") for name in RAY_METRICS} <= names_in_ray()
    assert {name.removesuffix("_bucket") for name in used} >= {f"ray_{metric.name}" for metric in METRICS}, "a metric that nobody looks at"


def names_in_ray() -> set[str]:
    """Of the gauges of a node, from the source of the installed Ray (to import it takes seconds)."""
    spec = importlib.util.find_spec("ray")
    assert spec and spec.submodule_search_locations
    source = (Path(spec.submodule_search_locations[0]) / "dashboard/modules/reporter/reporter_agent.py").read_text()
    variable = re.search(r'os.environ.get\("(\w+DISK_USAGE)"\)', source)
    assert variable, "how does Ray take to showing disks in pods?"
    for group in groups(job("paper")):
        assert {"name": variable[1], "value": "1"} in group["template"]["spec"]["containers"][0]["env"]
    return set(re.findall(r'^ {4}"(node_\w+)": Gauge\(', source, re.MULTILINE))


def test_what_a_counter_counts_first_is_not_missed() -> None:
    """It first appears with a value, and `increase` of a series that stays as it began is 0."""
    seen = set()
    for each in expressions():
        for name, window in re.findall(r"increase\((ray_caco_(?:rows|infra_errors)_total)\[(\w+)\]\)", each):
            seen.add(name)
            assert f"({name} unless {name} offset {window}) or increase({name}[{window}])" in each
    assert len(seen) == 2


def test_alerts_look_at_a_training_s_past() -> None:
    """Its gauges are set once a step, and are gone soon after the last one."""
    rules = yaml.safe_load((K8S / "components/monitoring/prometheusrule.yaml").read_text())
    text = " ".join(rule["expr"] for group in rules["spec"]["groups"] for rule in group["rules"])
    looks = re.findall(r"ray_caco_training_\w+(.)", text)
    assert looks and set(looks) == {"["}


def test_a_run_without_progress_is_seen_wherever_it_stands() -> None:
    """Without any series that a stage or a training sets only while it works."""
    (alert,) = [each for each in expressions() if each.startswith("count by (ray_cluster) (ray_node_disk_free) unless (")]
    assert {"ray_caco_rows_total", "ray_caco_training_step"} == set(re.findall(r"ray_caco_\w+", alert))


def test_no_series_mixes_clusters() -> None:
    """A sweep's points run side by side, each in a cluster of its own."""
    for each in expressions():
        assert "kubelet" in each or set(re.findall(r" by \((?:le, )?(\w+)", each)) in ({"ray_cluster"}, set()), each
    board = json.loads((K8S / "components/monitoring/caco-dashboard.json").read_text())
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
    assert len(set(places)) == len(places) == len({panel["id"] for panel in board["panels"]})


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
