"""What the plan tells launch files: nodes, times, variables of the machine's links, objectives."""

from __future__ import annotations

from typing import Any

import pytest
from programs import TINY, plan_of, tiny_spec
from trees import cpus, gpus, launch_texts, serving, tpus, training

from llmc.compiler.deploy.environment import variables
from llmc.compiler.deploy.facts import machines_of, object_name, server, train_job
from llmc.compiler.deploy.monitoring.objectives import bounds_of, objectives_of, windows_of
from llmc.compiler.deploy.refuse import refuse_deploy
from llmc.compiler.lower.serving import lower_serve
from llmc.compiler.topology.slices import slices_of, torus_words
from llmc.spec.codes import codes_of
from llmc.spec.deploy import Network
from llmc.spec.document import Spec
from llmc.spec.hardware import Hardware
from llmc.spec.serving import Slo

CLOUD = {"target": "queued_resource", "project": "research", "zone": "us-east5-a", "run_dir": "/mnt/runs"}
EVERYTHING = Network(interface="eth0", hca="mlx5", gid_index=3)


def names(accelerator: str, *, nodes: int, per_node: int, network: Network = EVERYTHING) -> set[str]:
    spec = tiny_spec(hardware=gpus(accelerator, nodes=nodes, per_node=per_node))
    found = variables(machines_of(spec, nodes * per_node), network, {})
    assert all(each.reason for each in found)
    return {each.name for each in found}


AMD = {"TORCH_BLAS_PREFER_HIPBLASLT", "HIP_FORCE_DEV_KERNARG"}
ALWAYS = {"NCCL_DEBUG", "NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"}


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (("h100-sxm-80g", 2, 8), {"NCCL_NVLS_ENABLE", "NCCL_IB_HCA"}),
        (("a100-sxm-80g", 2, 8), {"NCCL_IB_HCA"}),  # no switch that adds
        (("mi300x", 2, 8), {"NCCL_IB_HCA", "NCCL_IB_GID_INDEX", "NCCL_MIN_NCHANNELS", *AMD}),  # RoCE
        (("mi300x", 1, 4), {*AMD}),
        (("gb200", 8, 4), {"NCCL_NVLS_ENABLE", "NCCL_IB_HCA", "NCCL_MNNVL_ENABLE", "NCCL_CUMEM_ENABLE"}),
        (("l4", 2, 8), set()),  # Ethernet
        (("h100-sxm-80g", 1, 8), {"NCCL_NVLS_ENABLE"}),  # no network
    ],
)
def test_variables_follow_from_the_links(machine: tuple[str, int, int], expected: set[str]) -> None:
    accelerator, nodes, per_node = machine
    assert names(accelerator, nodes=nodes, per_node=per_node) == ALWAYS | expected


def test_ascend_gets_what_hccl_reads() -> None:
    found = names("ascend-910b", nodes=2, per_node=8)
    assert found == {"PYTORCH_NPU_ALLOC_CONF", "HCCL_CONNECT_TIMEOUT", "HCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"}


def test_devices_of_the_network_are_named_only_where_the_spec_names_them() -> None:
    found = names("h100-sxm-80g", nodes=2, per_node=8, network=Network())
    assert not {name for name in found if "IFNAME" in name or name.startswith("NCCL_IB")}


def test_torchrun_gets_what_its_restarts_need() -> None:
    spec = tiny_spec(hardware=cpus(2))
    found = variables(machines_of(spec, 2), Network(), {}, is_torchrun=True)
    assert [(each.name, each.value) for each in found] == [("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")]
    assert variables(machines_of(spec, 2), Network(), {}) == ()
    assert variables(machines_of(spec, 1), Network(), {}, is_torchrun=True) == ()


def test_the_users_own_variables_win() -> None:
    spec = tiny_spec(hardware=gpus("h100-sxm-80g", nodes=2, per_node=8))
    found = variables(machines_of(spec, 16), Network(), {"NCCL_DEBUG": "INFO"})
    assert [each.value for each in found if each.name == "NCCL_DEBUG"] == ["INFO"]


@pytest.mark.parametrize(("devices", "nodes", "per_node"), [(64, 8, 8), (8, 1, 8), (2, 1, 2), (16, 2, 8)])
def test_devices_fill_whole_nodes(devices: int, nodes: int, per_node: int) -> None:
    machines = machines_of(tiny_spec(hardware=gpus("h100-sxm-80g", nodes=8, per_node=8)), devices)
    assert (machines.nodes, machines.per_node, machines.ranks) == (nodes, per_node, devices)


def test_racks_are_filled_whole() -> None:
    script = launch_texts(*training({"target": "slurm"}, gpus("gb200", nodes=32, per_node=4)))["launch/train.sbatch"]
    assert "#SBATCH --segment=16\n" in script  # of the 18 nodes of a rack, as 32 are to be divided evenly


def test_ranks_are_told_to_stop_while_two_steps_and_a_checkpoint_still_fit() -> None:
    spec, plan = training({"target": "slurm"}, cpus(2))
    assert plan.train is not None
    slow = plan.train.predicted.model_copy(update={"step_time_high_s": 300.0})
    plan = plan.model_copy(update={"train": plan.train.model_copy(update={"predicted": slow})})
    assert train_job(spec, plan, origin="x", steps=1).signal_s >= 600


@pytest.mark.parametrize(
    ("name", "expected"), [("llama-3.1_8b", "llama-3-1-8b"), ("a" * 60, "a" * 40), ("a" * 39 + ".b", "a" * 39)]
)
def test_names_of_objects_are_dns_labels(name: str, expected: str) -> None:
    assert object_name(name) == expected


def test_objectives_count_requests_within_their_bound() -> None:
    found = objectives_of(Slo(ttft_p99_ms=350, tpot_p50_ms=25))
    assert [(each.name, each.le, each.share, each.budget) for each in found] == [
        ("ttft_p99", "0.35", 0.99, 0.01),
        ("tpot_p50", "0.025", 0.5, 0.5),
    ]
    assert bounds_of(found) == {"llmc_time_to_first_token_seconds": (0.35,)}  # 0.025 is a bucket of every server
    assert [window.factor for window in windows_of(found[0])] == [14.4, 6, 3, 1]
    assert [window.factor for window in windows_of(found[1])] == [1]  # more than all requests cannot be late


def refused(spec: Spec, plan: Any = None) -> list[tuple[str, str]]:
    found = refuse_deploy(spec, plan or plan_of(spec))
    return [(each.code, ".".join(map(str, each.path or ()))) for each in found]


def test_a_target_launches_something_of_the_spec() -> None:
    assert refused(tiny_spec(without=("train", "data"), deploy={"target": "slurm"})) == [("D101", "deploy.target")]
    assert refused(tiny_spec(without=("serve",), deploy={"target": "docker"})) == [("D101", "deploy.target")]
    for target in ("slurm", "torchrun", "docker", "ray"):
        assert refused(tiny_spec(deploy={"target": target})) == []


@pytest.mark.parametrize(
    ("target", "hardware"),
    [
        ({"target": "slurm"}, tpus("tpu-v5e", "4x4")),
        (CLOUD, cpus(2)),
        (CLOUD, tpus("tpu-v7x", "2x2x4")),  # on Kubernetes alone
    ],
)
def test_slices_are_launched_as_slices_are(target: dict[str, Any], hardware: dict[str, Any]) -> None:
    assert refused(*training(target, hardware)) == [("D104", "deploy.target")]
    assert refused(*training({"target": "kubernetes", "image": "tiny"}, hardware)) == []


@pytest.mark.parametrize(
    ("name", "topology", "hosts", "chips"),
    [("tpu-v5e", "2x4", 1, 8), ("tpu-v5e", "4x4", 4, 4), ("tpu-v6e", "1x1", 1, 1), ("tpu-v5p", "4x4x8", 32, 4)],
)
def test_a_slice_has_the_hosts_that_google_gives_it(name: str, topology: str, hosts: int, chips: int) -> None:
    found = slices_of(Hardware.model_validate(tpus(name, topology, slices=2)))
    assert found is not None
    assert (found.count, found.hosts, found.chips_of_a_host) == (2, hosts, chips)


def test_axes_take_sides_of_a_slice_and_then_slices() -> None:
    assert torus_words((("dp_replicate", 2), ("dp_shard", 8), ("tp", 4)), (4, 8), slices=2) == (
        "tp takes 4 along the 1st; dp_shard takes 8 along the 2nd; dp_replicate takes 2 slices"
    )


def test_a_replica_of_several_nodes_is_no_deployment() -> None:
    deploy = {"target": "kubernetes", "image": "x", "serve_as": "deployment"}
    hardware = gpus("h100-sxm-80g", nodes=2, per_node=2)
    assert refused(*serving(deploy, hardware, tp=4)) == [("D102", "deploy.serve_as")]
    assert refused(*serving(deploy | {"serve_as": "leader_worker_set"}, hardware, tp=4)) == []
    assert refused(*serving(deploy, hardware, tp=2)) == []
    for one in ({"target": "docker"}, {"target": "systemd", "folder": "/opt/x"}, {"target": "ray"}):
        assert refused(*serving(one, hardware, tp=4)) == [("D102", "deploy.target")]
        assert refused(*serving(one, hardware, tp=2)) == []


@pytest.mark.parametrize("field", ["keys", "tls"])
def test_ray_stands_before_servers_with_secrets(field: str) -> None:
    spec = tiny_spec(serve=TINY["serve"] | {"api": {field: True}}, deploy={"target": "ray"})
    assert refused(spec) == [("L301", f"serve.api.{field}")]
    assert refused(spec.model_copy(update={"deploy": None})) == []
    assert refused(tiny_spec(serve=TINY["serve"] | {"api": {field: True}}, deploy={"target": "docker"})) == []


def test_kserve_scales_by_itself() -> None:
    deploy = {"target": "kubernetes", "image": "x", "serve_as": "inference_service", "autoscaler": "keda"}
    assert refused(*serving(deploy, cpus(1))) == [("D103", "deploy.autoscaler")]
    assert refused(*serving(deploy | {"serve_as": "deployment"}, cpus(1))) == []


@pytest.mark.parametrize("code", codes_of("D").values(), ids=lambda code: code.slug)
def test_the_examples_of_the_codes_do_what_they_say(code: Any, tmp_path: Any) -> None:
    from llmc.compiler.pipeline import build

    for text, expected in ((code.failing_spec(), {code.id}), (code.fixed_spec(), set())):
        (tmp_path / "spec.yaml").write_text(text, encoding="utf-8")
        told = {each.code for each in build(tmp_path / "spec.yaml", tmp_path / "out").diagnostics}
        assert {each for each in told if each.startswith("D")} == expected


def test_a_server_of_few_bits_has_time_to_round() -> None:
    spec = tiny_spec(without=("train", "data"), serve=TINY["serve"] | {"weights": {"dtype": "int8"}})
    plan = plan_of(spec)
    assert plan.serve is not None
    view = lower_serve(spec, plan.serve, origin="tiny.yaml", device="cpu")
    told = server(spec, plan, view=view, origin="tiny.yaml", port=8000, is_scaled=False)
    assert told.start_s == 61  # 123,456 weights take hundredths of a second to read and to round
    assert "123,456 weights of 2 bytes at 200 MB/s, rounded at 20 million a second" in told.start_reason
