"""Consume or reject: every key that the user wrote is read by some pass, or it is an error.

    with record_reads() as reads:
        ...every pass of the compiler...
    diagnostics = unread_keys(spec, sources, reads)

Nothing has to be remembered by a pass: reading `spec.model.head_dim` is what consumes the key (base.py). A key that stays
unread would have no effect on the plan or the program, which is never what its author meant.

A pass may read a key and find that another one makes it void (`global_every` without `window`). Those are few, known from
the language alone, and found when the spec is loaded: `void_keys`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .attention import LatentAttention
from .base import Path
from .diagnostics import Diagnostic, diagnose
from .document import Spec
from .fields import fields_of
from .nodes import SourceMap

NEEDED_ANYWAY: frozenset[Path] = frozenset({("model", "intermediate_size"), ("model", "mlp")})
"""Fields that a model must give even where every layer has experts with figures of their own."""

LOADER_READS: frozenset[Path] = frozenset(
    {("llmc",), ("name",), ("extends",), ("model", "preset"), ("model", "family"), ("model", "hf"),
     ("hardware", "accelerator", "like"), ("hardware", "accelerator", "name"),
     *(("hardware", part, key) for part in ("host", "storage") for key in ("like", "name"))}
)  # fmt: skip
"""Keys whose work is done when the spec is loaded."""


def void_keys(spec: Spec, sources: SourceMap) -> Iterator[Diagnostic]:
    """Written keys that other values of the spec make void, whoever reads them."""
    for dotted, why in _VOID:
        path = tuple(dotted.split("."))
        if sources.is_written(path) and _get(spec, path) is not None:
            reason = why(spec)
            if reason is not None:
                yield _without_effect(path, reason)


def unread_keys(
    spec: Spec, sources: SourceMap, reads: set[Path], *, already: Iterable[Diagnostic] = ()
) -> list[Diagnostic]:
    """A diagnostic for each written key that no pass read, the outermost only, except where `already` speaks of it.

    They say where by path; the pipeline locates them.
    """
    reported = [diagnostic.path for diagnostic in already if diagnostic.path is not None]
    unread: list[Path] = []
    for path in sources.written:
        if any(path[: len(above)] == above for above in unread):
            continue
        if _counts(path, spec) and path not in reads and not _is_spoken_of(path, reported):
            unread.append(path)
    return [_diagnose(path, spec) for path in unread]


def _counts(path: Path, spec: Spec) -> bool:
    """Whether a path is a key that some pass should read. Items of lists, nulls and kinds are read with what holds them."""
    if not path or isinstance(path[-1], int) or path in LOADER_READS | NEEDED_ANYWAY:
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
    dotted = _dotted(path)
    reason = next(filter(None, (why(spec) for names, why in _REASONS if dotted in names.split())), None)
    return _without_effect(path, reason)


def _without_effect(path: Path, reason: str | None) -> Diagnostic:
    dotted = _dotted(path)
    return diagnose(
        "S401",
        f"`{dotted}` has no effect in this spec: {reason}" if reason else f"nothing reads `{dotted}` in this spec",
        path=path,
        part="key",
        notes=() if reason else ("a key without effect is an error, so that none is ever silently ignored",),
    )


def _dotted(path: Path) -> str:
    return ".".join(str(key) for key in path if not isinstance(key, int))


def _mla(spec: Spec) -> str | None:
    return "mla attention has head sizes of its own" if isinstance(spec.model.attention, LatentAttention) else None


def _no_window(spec: Spec) -> str | None:
    return "`attention.window` is not set" if getattr(spec.model.attention, "window", None) is None else None


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
    return "there is one node" if spec.hardware.nodes == spec.hardware.slices == 1 else None


def _no_load(spec: Spec) -> str | None:
    return "there is no `serve.workload` to hold it against" if spec.serve and spec.serve.workload is None else None


_VOID: tuple[tuple[str, Callable[[Spec], str | None]], ...] = (
    ("model.attention.global_every", _no_window),
    ("model.position.local_theta", _no_window),
    ("model.moe.router.aux_loss_weight", _balance),
    ("model.moe.router.topk_groups", _one_group),
)
"""Dotted keys -> what makes them void."""

_REASONS: tuple[tuple[str, Callable[[Spec], str | None]], ...] = (
    ("parallel data", _no_train),
    ("model.num_kv_heads model.head_dim", _mla),
    ("parallel.schedule parallel.virtual_stages", _degree("pp")),
    ("parallel.cp_kind", _degree("cp")),
    ("parallel.sequence_parallel", _degree("tp")),
    ("parallel.zero", _degree("dp_shard")),
    ("hardware.inter_node_gb_s", _one_node),
    ("serve.slo", _no_load),
)
"""Dotted keys -> why they may be unread."""
