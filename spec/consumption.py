"""Consume or reject: every key that the user wrote is read by some pass, or it is an error.

    with record_reads() as reads:
        ...every pass of the compiler...
    diagnostics = unread_keys(spec, sources, reads)

Nothing has to be remembered by a pass: reading `spec.model.head_dim` is what consumes the key (base.py). A key that stays
unread would have no effect on the plan or the program, which is never what its author meant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from .attention import LatentAttention
from .base import Path
from .diagnostics import Diagnostic, diagnose
from .document import Spec
from .fields import fields_of
from .load import locate
from .nodes import SourceMap

LOADER_READS: frozenset[Path] = frozenset(
    {("llmc",), ("name",), ("extends",), ("model", "preset"), ("model", "family"), ("model", "hf"),
     ("hardware", "accelerator", "like"), ("hardware", "accelerator", "name")}
)  # fmt: skip
"""Keys whose work is done when the spec is loaded."""


def unread_keys(
    spec: Spec, sources: SourceMap, reads: set[Path], *, already: Iterable[Diagnostic] = ()
) -> list[Diagnostic]:
    """A diagnostic for each written key that no pass read, the outermost only, except where `already` speaks of it."""
    reported = [diagnostic.path for diagnostic in already if diagnostic.path is not None]
    unread: list[Path] = []
    for path in sources.written:
        if any(path[: len(above)] == above for above in unread):
            continue
        if _counts(path, spec) and path not in reads and not _is_spoken_of(path, reported):
            unread.append(path)
    return [locate(_diagnose(path, spec), sources) for path in unread]


def _counts(path: Path, spec: Spec) -> bool:
    """Whether a path is a key that some pass should read. Items of lists, nulls and kinds are read with what holds them."""
    if not path or isinstance(path[-1], int) or path in LOADER_READS:
        return False
    holder = _get(spec, path[:-1])
    if holder is None or isinstance(holder, (str, int, float, tuple)):
        return False
    return getattr(holder, str(path[-1]), None) is not None and path[-1] != _tag_key(spec, path[:-1])


def _get(spec: Spec, path: Path) -> Any:
    value: Any = spec
    for key in path:
        if isinstance(value, tuple):
            value = value[int(key)] if isinstance(key, int) and key < len(value) else None
        else:
            value = getattr(value, str(key), None)
    return value


def _tag_key(spec: Spec, path: Path) -> str | None:
    """The key that tells the kind of the mapping at a path: isinstance reads it."""
    if not path:
        return None
    *above, last = path
    if isinstance(last, int):
        *above, last = above
        item = fields_of(type(_get(spec, tuple(above))))[str(last)].item
        return item.tag_key if item is not None else None
    return fields_of(type(_get(spec, tuple(above))))[str(last)].tag_key


def _is_spoken_of(path: Path, reported: list[Path]) -> bool:
    return any(path[: len(other)] == other or other[: len(path)] == path for other in reported if other)


def _diagnose(path: Path, spec: Spec) -> Diagnostic:
    dotted = ".".join(str(key) for key in path if not isinstance(key, int))
    reason = next(filter(None, (why(spec) for names, why in _REASONS if dotted in names.split())), None)
    return diagnose(
        "S401",
        f"`{dotted}` has no effect in this spec: {reason}" if reason else f"nothing reads `{dotted}` in this spec",
        path=path,
        part="key",
        notes=() if reason else ("a key without effect is an error, so that none is ever silently ignored",),
    )


def _mla(spec: Spec) -> str | None:
    return "mla attention has head sizes of its own" if isinstance(spec.model.attention, LatentAttention) else None


def _no_window(spec: Spec) -> str | None:
    return "`attention.window` is not set" if getattr(spec.model.attention, "window", None) is None else None


def _all_experts(spec: Spec) -> str | None:
    moe = spec.model.moe
    return "every layer has experts" if moe is not None and moe.every == 1 and moe.first_dense_layers == 0 else None


def _balance(spec: Spec) -> str | None:
    moe = spec.model.moe
    return None if moe is None or moe.router.balance == "aux_loss" else f"`balance` is {moe.router.balance}"


def _one_group(spec: Spec) -> str | None:
    return "`groups` is 1" if spec.model.moe is not None and spec.model.moe.router.groups == 1 else None


def _degree(name: str) -> Callable[[Spec], str | None]:
    def why(spec: Spec) -> str | None:
        degree = getattr(spec.parallel, name)
        return None if degree is not None and degree > 1 else f"`{name}` is {degree or 1}"

    return why


def _no_train(spec: Spec) -> str | None:
    return "there is no `train` section" if spec.train is None else None


def _one_node(spec: Spec) -> str | None:
    return "there is one node" if spec.hardware.nodes == 1 else None


def _no_load(spec: Spec) -> str | None:
    return "there is no `serve.workload` to hold it against" if spec.serve and spec.serve.workload is None else None


_REASONS: tuple[tuple[str, Callable[[Spec], str | None]], ...] = (
    ("parallel data", _no_train),
    ("model.num_kv_heads model.head_dim", _mla),
    ("model.attention.global_every model.position.local_theta", _no_window),
    ("model.mlp model.intermediate_size", _all_experts),
    ("model.moe.router.aux_loss_weight", _balance),
    ("model.moe.router.topk_groups", _one_group),
    ("parallel.schedule parallel.virtual_stages", _degree("pp")),
    ("parallel.cp_kind", _degree("cp")),
    ("parallel.sequence_parallel", _degree("tp")),
    ("parallel.zero", _degree("dp_shard")),
    ("hardware.inter_node_gb_s", _one_node),
    ("serve.slo", _no_load),
)
"""Dotted keys -> why they may be unread."""
