"""Servers that can be planned and are not lowered yet.

`refuse_shape` needs one replica's shape alone: the search leaves such shapes out (planner/serve_plan.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...spec.diagnostics import diagnose
from ..kernels.serving import serves_on_gpu
from ..kernels.weight_only_linear import BITS
from ..planner.layout import Layout
from ..topology.slices import num_hosts
from .refuse_experts import refuse_experts

if TYPE_CHECKING:
    from ...spec.base import Path
    from ...spec.diagnostics import Diagnostic
    from ...spec.document import Spec
    from ..cost.serving import EngineShape
    from ..planner.plan import Plan, ServeLayout

_DTYPES = ("bf16", "fp32")
_WEIGHTS = ("serve", "weights", "dtype")
_ACTIVATIONS = ("serve", "weights", "activations")
_LAYOUT = ("serve", "layout")


def refuse_server(spec: Spec, plan: Plan) -> Iterator[Diagnostic]:
    """What stands against the server of a plan."""
    serve = spec.serve
    assert serve is not None
    if plan.serve is not None:
        yield from refuse_shape(spec, plan.serve.layout)
        if spec.hardware.accelerator.kind == "tpu" and plan.serve.layout.replicas > 1:
            yield from _replicas_on_chips(spec, plan.serve.layout)
    elif serve.weights.dtype[0] not in (*_DTYPES, *BITS):
        yield from _weights(spec, serve.weights.dtype[0], devices=1)
    yield from _cache(spec, serve.kv_cache.dtype)


def _cache(spec: Spec, dtype: str) -> Iterator[Diagnostic]:
    """int8 is for keys and values of heads, which have a scale each; kernels that read it are in C++ alone."""
    place, kind = ("serve", "kv_cache", "dtype"), spec.hardware.accelerator.kind
    if dtype not in (*_DTYPES, "int8"):
        yield _refused(f"a KV cache in {dtype} is not lowered yet; in {_either((*_DTYPES, 'int8'))} it is", place)
    elif dtype == "int8" and kind != "cpu":
        message = f"a KV cache in int8 on a {kind} is not lowered yet; on a cpu it is, and in {_either(_DTYPES)}"
        yield _refused(message, place)
    elif dtype == "int8" and spec.model.attention.kind == "mla":
        message = f"latent attention (mla) with a KV cache in int8 is not lowered yet; in {_either(_DTYPES)} it is"
        yield _refused(message, place)


def refuse_shape(spec: Spec, shape: ServeLayout | EngineShape) -> Iterator[Diagnostic]:
    """What stands against a replica of this shape."""
    devices = shape.tp * shape.pp
    if devices > 1:
        yield from _together(spec, shape, field="tp" if shape.tp > 1 else "pp")
    if shape.ep > 1 and spec.model.moe is None:
        message = f"the model has no experts that ep {shape.ep} could spread; with `ep: 1` it is served"
        yield _refused(message, (*_LAYOUT, "ep"))
    if shape.tp > 1:
        yield from _cut(spec, shape.tp, ep=shape.ep)
    yield from _weights(spec, shape.weights, devices=devices)


def _together(spec: Spec, shape: ServeLayout | EngineShape, *, field: str) -> Iterator[Diagnostic]:
    """A replica of several devices."""
    kind, devices = spec.hardware.accelerator.kind, shape.tp * shape.pp
    place = (*_LAYOUT, field)
    if kind == "tpu":
        yield from _chips(spec, shape)
    elif kind not in ("cpu", "gpu"):
        yield _refused(
            f"replicas of {devices} devices on a {kind} are not lowered yet; on a cpu, gpu or tpu they are", place
        )
    if spec.train is not None:
        message = f"a program that trains serves replicas of one device, not of {devices}; a spec with `serve` alone, of its weights, does"
        yield _refused(message, place)


def _chips(spec: Spec, shape: ServeLayout | EngineShape) -> Iterator[Diagnostic]:
    """TPUs that one process serves with: those of one host, each with heads of its own."""
    if shape.pp > 1:
        yield _refused(f"stages (pp {shape.pp}) on TPUs are not lowered yet; tp is", (*_LAYOUT, "pp"))
    hosts = num_hosts(spec.hardware, chips=shape.tp)
    if hosts > 1:
        message = f"a replica of {shape.tp} chips on {hosts} hosts is not lowered yet; on one host it is"
        yield _refused(message, (*_LAYOUT, "tp"))
    kv_heads = 1 if spec.model.attention.kind == "mqa" else spec.model.num_kv_heads
    if kv_heads % shape.tp:
        message = (
            f"tp {shape.tp} on TPUs needs it to divide the {kv_heads} key/value heads; degrees that do are lowered"
        )
        yield _refused(message, (*_LAYOUT, "tp"))


def _replicas_on_chips(spec: Spec, layout: ServeLayout) -> Iterator[Diagnostic]:
    """Several processes that share the chips of a host, each with a rectangle of them (runtimes/serving/router/fleet.py)."""
    hosts = num_hosts(spec.hardware, chips=layout.replicas * layout.tp)
    if hosts > 1:
        message = f"{layout.replicas} replicas on {hosts} hosts of TPUs are not lowered yet; on one host they are"
        yield _refused(message, (*_LAYOUT, "replicas"))
    if layout.tp not in (1, 2, 4):
        message = f"several replicas of {layout.tp} chips each are not lowered yet; of 1, 2 or 4 they are"
        yield _refused(message, (*_LAYOUT, "tp"))


def _cut(spec: Spec, tp: int, *, ep: int) -> Iterator[Diagnostic]:
    """A model that tp cuts, in `ep` groups of ranks that have experts of their own."""
    model, attention = spec.model, spec.model.attention
    if model.moe is not None:
        yield from refuse_experts(model, model.moe, Layout(tp=tp), rank_groups=ep)
    width = model.intermediate_size
    if width % tp:
        message = f"a feed-forward width of {width:,} that tp {tp} does not divide is not lowered; with a degree that does it is"
        yield _refused(message, (*_LAYOUT, "tp"))
    if getattr(attention, "qk_norm", None) == "full":
        message = f"a norm over all heads (qk_norm: full) that tp {tp} cuts is not lowered; qk_norm: head is"
        yield _refused(message, ("model", "attention", "qk_norm"))
    if model.position.kind == "alibi":
        message = f"ALiBi with heads that tp {tp} cuts is not lowered yet; with tp 1 it is"
        yield _refused(message, ("model", "position"), part="key")
    is_tpu = spec.hardware.accelerator.kind == "tpu"  # where fixed shapes are for the compiler
    if spec.serve is not None and spec.serve.shapes == "fixed" and tp > 2 and not is_tpu:
        message = (
            f"`shapes: fixed` with tp {tp} is not lowered yet: sums over more than two ranks depend on where in a batch a"
            " request stands; with tp 2 it is, and with `shapes: varying`"
        )
        yield _refused(message, ("serve", "shapes"))


def _weights(spec: Spec, chosen: str, *, devices: int) -> Iterator[Diagnostic]:
    if chosen in BITS:
        yield from _few_bits(spec, chosen, devices=devices)
    elif chosen not in _DTYPES:
        message = f"serving with {chosen} weights is not lowered yet; with bf16, fp32, int8 and int4 it is"
        yield _refused(message, _WEIGHTS)
    elif spec.serve is not None and spec.serve.weights.activations is not None:
        message = f"activations in {spec.serve.weights.activations} with {chosen} weights are not lowered; with int8 and int4 weights they are"
        yield _refused(message, _ACTIVATIONS)


def _few_bits(spec: Spec, chosen: str, *, devices: int) -> Iterator[Diagnostic]:
    """Weights in int8 and int4: kernels are of linear layers, and know nothing of gradients."""
    assert spec.serve is not None
    kind = spec.hardware.accelerator.kind
    if kind != "cpu" and not serves_on_gpu(spec):
        device = "this gpu" if kind == "gpu" else f"a {kind}"
        message = f"serving with {chosen} weights on {device} is not lowered yet; on a cpu and on a gpu with bf16 it is"
        yield _refused(message, _WEIGHTS)
    elif kind != "cpu" and spec.serve.weights.activations is not None:
        message = f"activations in {spec.serve.weights.activations} on a {kind} are not lowered yet; on a cpu they are"
        yield _refused(message, _ACTIVATIONS)
    if devices > 1:
        message = f"{chosen} weights over {devices} devices are not lowered yet; on one device they are, and {_either(_DTYPES)}"
        yield _refused(message, _WEIGHTS)
    if spec.train is not None:
        message = f"a program that trains serves with {_either(_DTYPES)} weights; a spec with `serve` alone, of its weights, with {chosen} too"
        yield _refused(message, _WEIGHTS)
    if spec.model.moe is not None:
        yield _refused(f"experts with {chosen} weights are not lowered yet; dense models are", _WEIGHTS)
    if spec.model.attention.kind == "mla":
        message = f"latent attention (mla) with {chosen} weights is not lowered yet; heads of their own are"
        yield _refused(message, _WEIGHTS)
    if chosen == "int8" and not spec.serve.weights.symmetric:
        message = "int8 weights with an offset are not lowered yet; int4 weights are: `dtype: int4`"
        yield _refused(message, ("serve", "weights", "symmetric"))


def _either(names: tuple[str, ...]) -> str:
    return " and ".join((", ".join(names[:-1]), names[-1]))


def _refused(message: str, path: Path, *, part: str = "value") -> Diagnostic:
    return diagnose("L301", message, path=path, part="key" if part == "key" else "value")
