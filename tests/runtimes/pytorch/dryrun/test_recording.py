"""What a dry run counts: memory against torch's own tracker, traffic against what was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from llmc.runtimes.pytorch.dryrun.device_ops import ops_of_accelerators
from llmc.runtimes.pytorch.dryrun.fakes import PlainFakes, plain_fakes
from llmc.runtimes.pytorch.dryrun.memory import LiveBytes
from llmc.runtimes.pytorch.dryrun.traffic import Traffic
from llmc.runtimes.pytorch.dryrun.world import fake_world

SIZE = 1024


@contextmanager
def fake_rank_of_64(**axes: int) -> Iterator[DeviceMesh]:
    """Rank 3 of 64, with fake tensors."""
    axes = axes or {"dp": 64}
    with fake_world(3, 64):
        mesh = init_device_mesh("cpu", tuple(axes.values()), mesh_dim_names=tuple(axes))
        with FakeTensorMode():
            yield mesh


class Training:
    """Four layers under FSDP over 64 ranks, and their optimizer."""

    def __init__(self, mesh: DeviceMesh) -> None:
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        layers = [nn.Sequential(nn.Linear(SIZE, 4 * SIZE), nn.GELU(), nn.Linear(4 * SIZE, SIZE)) for _ in range(4)]
        self.model = nn.Sequential(*layers)
        for layer in layers:
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        fully_shard(self.model, mesh=mesh)
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.x = torch.randn(2048, SIZE, dtype=torch.bfloat16)

    def step(self) -> None:
        self.model(self.x).float().sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def test_live_bytes_equal_the_tracker_of_torch() -> None:
    with fake_rank_of_64() as mesh:
        training, counter = Training(mesh), LiveBytes()
        counter.add(parameter.to_local() for parameter in training.model.parameters())  # type: ignore[attr-defined]
        with counter.counting():
            training.step()
            counter.restart_peak()
            training.step()
    with fake_rank_of_64() as mesh:
        training, tracker = Training(mesh), MemTracker()
        tracker.track_external(training.model, training.optimizer)
        for _ in range(2):
            with tracker:
                training.step()
            tracker.reset_mod_stats()
        (theirs,) = tracker.get_tracker_snapshot("peak").values()
    assert counter.peak == theirs["Total"]
    assert counter.live < counter.peak  # activations and gathered weights are gone after a step


def test_what_fsdp_sends() -> None:
    with fake_rank_of_64() as mesh:
        training, traffic = Training(mesh), Traffic()
        with traffic.recording():
            training.step()
    weights = 2 * 4 * SIZE * SIZE + 5 * SIZE
    assert {call.ranks for call in traffic.calls} == {tuple(range(64))}
    assert [call.kind for call in traffic.calls].count("reduce_scatter") == 4
    gathers = [call for call in traffic.calls if call.kind == "all_gather"]
    assert [call.num_bytes for call in gathers] == [weights * 2] * 8  # forward and backward, in bf16


def test_every_way_to_send() -> None:
    with fake_rank_of_64(dp=8, tp=8) as mesh:
        tp, dp = mesh["tp"].get_group(), mesh["dp"].get_group()
        x, eight = torch.empty(8, 64), [torch.empty(8, 64) for _ in range(8)]
        traffic = Traffic()
        with traffic.recording():
            dist.all_reduce(x, group=tp)
            dist.all_gather(eight, x, group=tp)
            dist.all_gather_into_tensor(torch.empty(64, 64), x, group=dp)
            dist.reduce_scatter_tensor(torch.empty(1, 64), x, group=dp)
            dist.all_to_all_single(torch.empty(8, 64), x, group=tp)
            dist.broadcast(x, 3, group=dp)
            functional.all_reduce(x, "sum", tp)
            functional.all_to_all_single_autograd(x, [1] * 8, [1] * 8, tp)
            both = [dist.P2POp(dist.isend, x, 11, dp), dist.P2POp(dist.irecv, x, 59, dp)]
            sent, received = dist.batch_isend_irecv(both)
            received.wait()
            sent.wait()
            dist.barrier()
    row, column, kib = tuple(range(8)), tuple(range(3, 64, 8)), 1024
    found = [(call.kind, call.ranks, call.num_bytes) for call in traffic.calls]
    assert found == [
        ("all_reduce", row, 2 * kib),
        ("all_gather", row, 16 * kib),
        ("all_gather", column, 16 * kib),
        ("reduce_scatter", column, 2 * kib),
        ("all_to_all", row, 2 * kib),
        ("broadcast", column, 2 * kib),
        ("all_reduce", row, 2 * kib),
        ("all_to_all", row, 2 * kib),
        ("send", (), 2 * kib),
        ("recv", (), 2 * kib),
        ("wait", (), 0),
        ("wait", (), 0),
        ("barrier", tuple(range(64)), 0),
    ]
    messages = [(call.kind, call.peer, call.message) for call in traffic.calls if call.message is not None]
    assert messages == [("send", 11, 0), ("recv", 59, 1), ("wait", None, 1), ("wait", None, 0)]


def test_the_world_is_left_as_it_was() -> None:
    with fake_world(0, 1024), FakeTensorMode():
        assert dist.get_world_size() == 1024
        assert torch.empty(1 << 40).numel() == 1 << 40  # takes no memory
    assert not dist.is_initialized()
    assert isinstance(torch.zeros(2).sum().item(), float)
    assert type(torch.zeros(2)) is Tensor


def test_attention_with_narrow_values_keeps_no_scores() -> None:
    """As on accelerators: what it takes, what it gives, and a number a row."""
    with FakeTensorMode(), ops_of_accelerators():
        q, k = (torch.empty(1, 4, 4096, 192, dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
        v = torch.empty(1, 4, 4096, 128, dtype=torch.bfloat16, requires_grad=True)
        counter = LiveBytes()
        with counter.counting():
            y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            y.sum().backward()
    assert y.shape == v.shape
    assert counter.peak < 4 * 4096 * 4096


def test_plain_fakes_are_those_of_torch() -> None:
    """What an op returns is kept for tensors of the same facts: those that differ in one are told apart, a second time too."""

    def found() -> list[object]:
        x, y = torch.empty(4, 6), torch.empty(8, 6)
        others = [x.t().contiguous().t(), x.double(), x.bfloat16(), y[4:], y[::2], x.clone().requires_grad_()]
        results = [
            op(each) for _ in range(2) for each in (x, *others) for op in (torch.exp, torch.sum, lambda x: x + x[0])
        ]
        return [(each.shape, each.stride(), each.dtype, each.device, each.requires_grad) for each in results]

    with FakeTensorMode():
        expected = found()
    with plain_fakes():
        assert found() == expected
        assert isinstance(torch.empty(1), FakeTensor)
    assert not isinstance(torch.empty(1), FakeTensor)


def test_torch_is_asked_for_devices_by_an_op() -> None:
    """Which modes that watch need not see, and which calls `fakes.py` spares."""
    assert hasattr(FakeTensorMode.__torch_dispatch__, "__wrapped__"), "torch has changed: see fakes.py"
    assert not hasattr(PlainFakes.__torch_dispatch__, "__wrapped__")
    with plain_fakes(), LiveBytes():
        assert torch.empty(3).device == torch.device("cpu")
