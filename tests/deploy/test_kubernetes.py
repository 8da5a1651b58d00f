"""Kubernetes objects of every kind validate, and say what the plan says."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from objects import objects, validate
from trees import cpus, gpus, launch_texts, serving, tpus, training

IMAGE = "registry.example/llmc/tiny:1.0"
EIGHT_NODES = gpus("h100-sxm-80g", nodes=8, per_node=8)


def kubernetes(**fields: Any) -> dict[str, Any]:
    return {"target": "kubernetes", "image": IMAGE, **fields}


def by_kind(texts: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Every object of the launch files, each valid."""
    found = {}
    for path, text in texts.items():
        if path.endswith(".yaml") and "adapter" not in path:
            for each in objects(text):
                validate(each)
                found[each["kind"]] = each
    return found


FULL = {
    "namespace": "llm",
    "claim": "runs",
    "cpus": 64,
    "memory_gib": 900.0,
    "environment": {"OWN_VALUE": 'a "b": #c'},
    "queue": "research",
    "topology_level": "cloud.example/rack",
    "network": {"interface": "eth0", "hca": "mlx5_0,mlx5_1"},
}


@pytest.mark.parametrize("kind", ["jobset", "pytorchjob"])
@pytest.mark.parametrize("fields", [{}, FULL], ids=["least", "full"])
@pytest.mark.parametrize("hardware", [EIGHT_NODES, cpus(2)], ids=["8x8", "1x2"])
def test_training_objects_are_valid(kind: str, fields: dict[str, Any], hardware: dict[str, Any]) -> None:
    found = by_kind(launch_texts(*training(kubernetes(train_as=kind, **fields), hardware)))
    assert set(found) == {"JobSet" if kind == "jobset" else "PyTorchJob"}


def test_a_jobset_has_a_pod_a_node_with_all_its_devices_and_its_network() -> None:
    found = by_kind(launch_texts(*training(kubernetes(**FULL), EIGHT_NODES)))["JobSet"]
    job = found["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert (job["parallelism"], job["completions"], job["completionMode"]) == (8, 8, "Indexed")
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 8
    assert container["resources"]["limits"]["rdma/ib"] == 8
    assert container["securityContext"]["capabilities"]["add"] == ["IPC_LOCK"]
    environment = {each["name"]: each["value"] for each in container["env"]}
    assert environment["MASTER_ADDR"] == "tiny-node-0-0.tiny"
    assert environment["NCCL_SOCKET_IFNAME"] == "eth0"
    assert environment["NCCL_IB_HCA"] == "mlx5_0,mlx5_1"
    assert environment["NCCL_NVLS_ENABLE"] == "1"
    assert environment["OWN_VALUE"] == 'a "b": #c'
    assert found["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"


@pytest.mark.parametrize("fields", [{}, FULL], ids=["least", "full"])
@pytest.mark.parametrize(("topology", "hosts", "slices"), [("2x4", 1, 1), ("4x8", 8, 1), ("4x8", 8, 3)])
def test_slices_of_tpus_become_a_job_each(fields: dict[str, Any], topology: str, hosts: int, slices: int) -> None:
    hardware = tpus("tpu-v5e", topology, slices=slices)
    found = by_kind(launch_texts(*training(kubernetes(**fields), hardware)))["JobSet"]
    (replicated,) = found["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert (replicated["replicas"], job["parallelism"], job["completions"]) == (slices, hosts, hosts)
    pod = job["template"]["spec"]
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] == "tpu-v5-lite-podslice"
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == topology
    (container,) = pod["containers"]
    assert container["command"] == ["python", "train.py", "--resume"]
    assert container["resources"]["limits"]["google.com/tpu"] == (8 if hosts == 1 else 4)
    environment = {each["name"]: each["value"] for each in container.get("env", ())}
    assert environment.get("MASTER_ADDR") == (None if hosts * slices == 1 else "tiny-slice-0-0.tiny")
    assert pod.get("hostNetwork", False) == (slices > 1)


def test_ascend_devices_are_asked_for_by_their_plugins_name() -> None:
    hardware = gpus("ascend-910b", nodes=2, per_node=8)
    found = by_kind(launch_texts(*training(kubernetes(), hardware)))["JobSet"]
    (container,) = found["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["huawei.com/Ascend910"] == 8
    assert {"HCCL_CONNECT_TIMEOUT", "PYTORCH_NPU_ALLOC_CONF"} <= {each["name"] for each in container["env"]}


def test_a_pytorchjob_has_a_master_and_the_other_nodes_as_workers() -> None:
    found = by_kind(launch_texts(*training(kubernetes(train_as="pytorchjob"), EIGHT_NODES)))["PyTorchJob"]
    specs = found["spec"]["pytorchReplicaSpecs"]
    assert {kind: spec["replicas"] for kind, spec in specs.items()} == {"Master": 1, "Worker": 7}
    assert found["spec"]["nprocPerNode"] == "8"


SERVING = {
    "deployment": "Deployment",
    "leader_worker_set": "LeaderWorkerSet",
    "inference_service": "InferenceService",
    "llm_inference_service": "LLMInferenceService",
}


@pytest.mark.parametrize("kind", SERVING)
@pytest.mark.parametrize("fields", [{}, FULL | {"weights": "/models/tiny"}], ids=["least", "full"])
def test_serving_objects_are_valid(kind: str, fields: dict[str, Any]) -> None:
    fields = {name: value for name, value in fields.items() if name not in ("queue", "topology_level")}
    one_node = gpus("h100-sxm-80g", nodes=1, per_node=2)
    found = by_kind(launch_texts(*serving(kubernetes(serve_as=kind, **fields), one_node, replicas=2)))
    assert {SERVING[kind], "PodMonitor", "PrometheusRule"} <= set(found)


@pytest.mark.parametrize("kind", SERVING)
def test_pods_with_keys_and_certificates_are_probed_where_no_key_is_needed(kind: str) -> None:
    deploy = kubernetes(serve_as=kind)
    found = by_kind(launch_texts(*serving(deploy, cpus(1), api={"keys": True, "tls": True})))
    text = str(found[SERVING[kind]])
    assert text.count("'port': 'probes', 'scheme': 'HTTPS'") == 3
    assert "'--keys', '/secrets/keys/keys', '--probe-port', '8100'" in text
    assert "{'name': 'keys', 'secret': {'secretName': 'tiny-keys'}}" in text
    assert "{'name': 'tls', 'secret': {'secretName': 'tiny-tls'}}" in text
    (endpoint,) = found["PodMonitor"]["spec"]["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["scheme"]) == ("probes", "https")
    if "Service" in found:
        assert [each["targetPort"] for each in found["Service"]["spec"]["ports"]] == ["http"], "probes stay inside"


@pytest.mark.parametrize(("tp", "pp"), [(16, 1), (8, 2)])
def test_a_replica_of_several_nodes_becomes_a_leader_and_workers(tp: int, pp: int) -> None:
    found = by_kind(launch_texts(*serving(kubernetes(), gpus("h100-sxm-80g", nodes=2, per_node=8), tp=tp, pp=pp)))
    group = found["LeaderWorkerSet"]["spec"]["leaderWorkerTemplate"]
    assert group["size"] == 2
    leader, worker = (group[name]["spec"]["containers"][0] for name in ("leaderTemplate", "workerTemplate"))
    assert leader["resources"]["limits"]["nvidia.com/gpu"] == 8
    assert leader["command"] == worker["command"]
    assert "livenessProbe" in leader
    assert "livenessProbe" not in worker  # it has no port


def test_the_grace_period_covers_what_an_accepted_request_may_need() -> None:
    spec, plan = serving(kubernetes(), cpus(1))
    pod = by_kind(launch_texts(spec, plan))["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert plan.serve is not None
    longest_answer_s = spec.serve.max_seq_len * plan.serve.predicted.tpot_p99_ms / 1e3  # type: ignore[union-attr]
    waits_s = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > waits_s + longest_answer_s
    probes = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert probes == {"startup": "/health/live", "readiness": "/health/ready", "liveness": "/health/progress"}


@pytest.mark.parametrize(("scaler", "kind"), [("hpa", "HorizontalPodAutoscaler"), ("keda", "ScaledObject")])
@pytest.mark.parametrize("serve_as", ["deployment", "leader_worker_set"])
def test_an_autoscaler_owns_the_number_of_replicas(scaler: str, kind: str, serve_as: str) -> None:
    deploy = kubernetes(autoscaler=scaler, serve_as=serve_as, max_replicas=6)
    found = by_kind(launch_texts(*serving(deploy, gpus("h100-sxm-80g", nodes=1, per_node=2), replicas=2)))
    assert "replicas" not in found[SERVING[serve_as]]["spec"]
    assert found[kind]["spec"]["scaleTargetRef"]["kind"] == SERVING[serve_as]
    spec = found[kind]["spec"]
    limits = ("minReplicas", "maxReplicas") if scaler == "hpa" else ("minReplicaCount", "maxReplicaCount")
    assert [spec[name] for name in limits] == [2, 6]


def test_names_with_dots_become_names_of_objects() -> None:
    spec, plan = serving(kubernetes(), cpus(1))
    named = spec.model_copy(update={"name": "llama-3.1_8b"})
    assert by_kind(launch_texts(named, plan))["Service"]["metadata"]["name"] == "llama-3-1-8b"


@pytest.mark.parametrize(
    "path", ["spec.replicatedJobs.0.template.spec.template.spec.containers.0", "spec", "spec.network"]
)
def test_the_schemas_notice_a_wrong_key(path: str) -> None:
    """That the objects above are valid says something: a misspelt key, also of a pod, is found."""
    (found,) = objects(launch_texts(*training(kubernetes(), cpus(2, nodes=2)))["launch/train.yaml"])
    broken = copy.deepcopy(found)
    part: Any = broken
    for key in path.split("."):
        part = part[int(key)] if key.isdigit() else part[key]
    part["misspelt"] = 1
    with pytest.raises(AssertionError, match="misspelt"):
        validate(broken)
