"""Text -> `(Spec, SourceMap)`, or `SpecError` with everything that is wrong.

compose     YAML with positions                                   compose.py
extends     other specs underneath, --set on top                  merge.py, overrides.py
resolve     presets, families, Hugging Face folders, accelerators resolve.py
validate    pydantic, in the user's words                         validate.py
check       what fields mean together                             checks/
help        proposals, tried before they are printed              fixes.py
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath

from .base import place
from .checks import check
from .compose import MAX_CHARACTERS, compose
from .consumption import void_keys
from .diagnostics import Diagnostic, Label, SpecError, diagnose
from .document import Spec
from .fixes import checked_help
from .merge import lay_over, one_stage_as_list
from .nodes import MappingNode, ScalarNode, SequenceNode, SourceMap, YamlNode, sites
from .overrides import apply_override
from .resolve import resolve
from .source import SourceText, Span
from .validate import validate

MAX_EXTENDS = 20


def load_spec(path: str | FilePath, overrides: Sequence[str] = ()) -> tuple[Spec, SourceMap]:
    """The spec in a file, with `--set` options laid over it, every name resolved and every default filled in."""
    spec, sources, diagnostics = read_spec(path, overrides)
    if spec is None:
        raise SpecError(diagnostics)
    return spec, sources


def load_text(text: str, overrides: Sequence[str] = (), *, name: str = "spec.yaml") -> tuple[Spec, SourceMap]:
    """The same for a text; messages call it `name`."""
    spec, sources, diagnostics = read_source(SourceText(name, text), overrides)
    if spec is None:
        raise SpecError(diagnostics)
    return spec, sources


def read_spec(
    path: str | FilePath, overrides: Sequence[str] = (), *, name: str | None = None
) -> tuple[Spec | None, SourceMap, tuple[Diagnostic, ...]]:
    """The spec, or None where it has errors; what is known of its places; errors and warnings, in the order of the text.

    Messages call the file by `name` (its path if not given).
    """
    try:
        source = _read_file(FilePath(path), name=name)
    except _CannotRead as problem:
        return None, SourceMap(), (diagnose("S102", str(problem)),)
    return read_source(source, overrides)


def read_source(
    source: SourceText, overrides: Sequence[str] = ()
) -> tuple[Spec | None, SourceMap, tuple[Diagnostic, ...]]:
    document = _Document()
    tree = document.read(source)
    if tree is None or not isinstance(tree, MappingNode):
        return None, SourceMap(), _in_order(document.diagnostics)
    for option in overrides:
        tree, faults = apply_override(tree, option, root=Spec)
        document.diagnostics += faults
    tree = one_stage_as_list(tree)
    if not isinstance(tree, MappingNode):
        return None, SourceMap(), _in_order(document.diagnostics)
    judged = judge(tree)
    found = checked_help(judged.diagnostics, tree, judge=lambda edited: judge(edited).diagnostics, root=Spec)
    located = [locate(each, judged.sources) for each in found]
    diagnostics = _in_order([*document.diagnostics, *(e for e in located if not _repeats(e, document.diagnostics))])
    if judged.spec is None or any(each.severity == "error" for each in diagnostics):
        return None, judged.sources, diagnostics
    place(judged.spec)
    return judged.spec, judged.sources, diagnostics


@dataclass
class Judged:
    """What a tree amounts to."""

    spec: Spec | None
    sources: SourceMap
    diagnostics: list[Diagnostic]


def judge(tree: YamlNode) -> Judged:
    """Resolve, validate and check a tree. Pure: used for the spec itself and for each proposal of a fix."""
    if not isinstance(tree, MappingNode):
        return Judged(None, SourceMap(), [diagnose("S110", "a spec is a mapping", span=tree.span)])
    resolved = resolve(tree)
    sources = SourceMap(dict(sites(resolved.tree)))
    spec, faults = validate(resolved.tree)
    faults = [fault for fault in faults if not _follows(fault, resolved.unresolved)]
    diagnostics = [*resolved.diagnostics, *faults, *check(spec, resolved.tree)]
    if spec is not None:
        diagnostics += void_keys(spec, sources)
    return Judged(spec, sources, diagnostics)


def _follows(fault: Diagnostic, unresolved: list[tuple[str | int, ...]]) -> bool:
    """Fields missing or a bare name unread, because a preset, accelerator, host or storage was not found: already reported."""
    parts = (("hardware", "accelerator"), ("hardware", "host"), ("hardware", "storage"))
    is_bare_word = fault.path in parts and fault.code == "S106"
    return fault.path in unresolved and (fault.code == "S105" or is_bare_word)


def _repeats(diagnostic: Diagnostic, read: list[Diagnostic]) -> bool:
    """Whether reading has already complained about the very value: it then stands as null, which is no second fault."""
    here = diagnostic.span
    return here is not None and any(
        there.source is here.source and there.start <= here.start and here.end <= there.end
        for there in (other.span for other in read if other.code in ("S113", "S114"))
        if there is not None
    )


def locate(diagnostic: Diagnostic, sources: SourceMap) -> Diagnostic:
    """Give a diagnostic and its labels the places that their paths name."""
    labels = tuple(
        label if label.span is not None or label.path is None else replace(label, span=_span(sources, label))
        for label in diagnostic.labels
    )
    if diagnostic.span is not None or diagnostic.path is None:
        return replace(diagnostic, labels=labels)
    return replace(diagnostic, span=_span(sources, diagnostic), labels=labels)


def _span(sources: SourceMap, place: Diagnostic | Label) -> Span | None:
    """The key or the value at a path; where the path is not in the text, the key of the nearest one above."""
    assert place.path is not None
    site = sources.site(place.path)
    if site is None:
        return None
    if place.path not in sources.sites:
        return site.key
    return site.key if place.part == "key" else site.value


def _in_order(diagnostics: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    """Errors first, each in the order of the text, without repetitions."""
    unique = list(dict.fromkeys(diagnostics))
    return tuple(
        sorted(
            unique, key=lambda d: (d.severity != "error", d.span.file if d.span else "", d.span.start if d.span else 0)
        )
    )


class _CannotRead(Exception):
    """A file that should hold a spec does not."""


def _read_file(path: FilePath, *, name: str | None = None) -> SourceText:
    """The text of a file. Untrusted paths come here too (`extends`), so only plain files of a sane size are read."""
    shown = name or path.as_posix()
    try:
        if path.is_dir():
            raise _CannotRead(f"{shown} is a folder, a spec is a file")
        if not path.exists():
            raise _CannotRead(f"there is no file {shown}")
        if not path.is_file():
            raise _CannotRead(f"{shown} is not a plain file")
        if path.stat().st_size > 4 * MAX_CHARACTERS:
            raise _CannotRead(f"{shown} has {path.stat().st_size:,} bytes, {4 * MAX_CHARACTERS:,} are read")
        data = path.read_bytes()
    except (OSError, ValueError) as problem:
        raise _CannotRead(f"{shown} cannot be read: {getattr(problem, 'strerror', None) or problem}") from problem
    try:
        return SourceText(shown, data.decode("utf-8-sig"), path.parent)
    except UnicodeDecodeError as problem:
        line = data[: problem.start].count(b"\n") + 1
        raise _CannotRead(
            f"{shown} is not UTF-8: byte {problem.start} (line {line}) is 0x{data[problem.start]:02x}"
        ) from problem


def _kind(tree: ScalarNode | SequenceNode | None) -> str:
    if isinstance(tree, SequenceNode):
        return "a list"
    return "empty" if tree is None or tree.value is None else "a single value"


@dataclass
class _Document:
    """A spec with everything it extends."""

    diagnostics: list[Diagnostic] = field(default_factory=list)
    chain: list[FilePath] = field(default_factory=list)
    num_read: int = 0

    def read(self, source: SourceText) -> YamlNode | None:
        """The tree of a source, laid over the trees that it extends."""
        tree, faults = compose(source)
        self.diagnostics += faults
        if isinstance(tree, (ScalarNode, SequenceNode)) or (tree is None and not faults):
            span = tree.span if tree is not None else Span(source, 0, 0)
            message = f"a spec is a mapping of sections, this one is {_kind(tree)}"
            self.diagnostics.append(diagnose("S110", message, span=span))
            return None
        if tree is None:
            return None
        lower = self._read_extended(tree, source)
        return tree if lower is None else lay_over(lower, tree, root=Spec)

    def _read_extended(self, tree: MappingNode, source: SourceText) -> YamlNode | None:
        extends = tree.get("extends")
        if extends is None:
            return None
        names = extends.items if isinstance(extends, SequenceNode) else (extends,)
        self.chain.append((source.folder / FilePath(source.name).name).resolve())
        lower: YamlNode | None = None
        for name in names:
            if isinstance(name, ScalarNode) and isinstance(name.value, str):
                below = self._read_one(name, source)
                if below is not None:
                    lower = below if lower is None else lay_over(lower, below, root=Spec)
        self.chain.pop()
        return lower

    def _read_one(self, name: ScalarNode, source: SourceText) -> YamlNode | None:
        """The tree of one spec that is extended."""
        self.num_read += 1
        text = str(name.value)
        if FilePath(text).is_absolute() or not text.endswith((".yaml", ".yml")):
            return self._refuse("S201", f"`extends` names a .yaml file relative to this one, not `{text}`", name)
        if self.num_read > MAX_EXTENDS:
            return self._refuse("S201", f"more than {MAX_EXTENDS} specs are extended", name)
        path = source.folder / text
        try:
            if path.resolve() in self.chain:
                return self._refuse("S202", f"`{text}` extends itself by way of this file", name)
            below = _read_file(path, name=(FilePath(source.name).parent / text).as_posix())
        except (_CannotRead, OSError, RuntimeError) as problem:  # RuntimeError: a loop of symbolic links
            return self._refuse("S201", str(problem), name)
        return self.read(below)

    def _refuse(self, code: str, message: str, name: ScalarNode) -> None:
        self.diagnostics.append(diagnose(code, message, span=name.span))
