"""YAML text -> nodes with positions, or diagnostics.

ruamel.yaml scans and parses; composing is ours, because a spec is untrusted text and each of these must end in a
diagnostic: aliases that expand without end, deep nesting, duplicate keys, foreign tags, several documents. Plain
scalars follow YAML 1.2's core schema to the letter (no octal 010, no yes/no, 1e-4 is a number).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import Any

from .diagnostics import Diagnostic, Label, diagnose
from .nodes import Entry, MappingNode, Scalar, ScalarNode, SequenceNode, YamlNode
from .source import SourceText, Span

MAX_CHARACTERS = 1 << 18
MAX_NODES = 20_000
MAX_DEPTH = 40
MAX_DIGITS = 40

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
"""What an escape in quotes can smuggle in: file names and terminals take it amiss."""

_SCALAR_TAGS = {"str", "int", "float", "bool", "null"}
_ALL_TAGS = _SCALAR_TAGS | {"map", "seq"}
_KINDS: dict[str, tuple[type, ...]] = {"int": (int,), "float": (float, int), "bool": (bool,), "null": (type(None),)}
"""Of scalars with a tag; a `!!str` is its text."""


def _tag_name(event: Any) -> str:
    tag = str(event.tag) if event.tag is not None else ""
    return tag.removeprefix("tag:yaml.org,2002:").removeprefix("!!")


def compose(source: SourceText, *, text: str | None = None) -> tuple[YamlNode | None, list[Diagnostic]]:
    """The one document of a source, as far as it can be read, and what is wrong with it.

    `text` is read in place of the source's own, with the same offsets: `--set` blanks out all but the value.
    """
    too_much = _check_text(source)
    if too_much is not None:
        return None, [too_much]
    composer = _Composer(source)
    return composer.run(source.text if text is None else text), composer.diagnostics


def _check_text(source: SourceText) -> Diagnostic | None:
    if len(source.text) > MAX_CHARACTERS:
        return diagnose(
            "S112",
            f"the text has {len(source.text):,} characters, {MAX_CHARACTERS:,} are read",
            span=Span(source, 0, 0),
        )
    odd = _UNPRINTABLE.search(source.text)
    if odd is not None:
        message = f"the character U+{ord(odd[0]):04X} may not stand in YAML"
        return diagnose("S101", message, span=Span(source, odd.start(), odd.end()))
    return None


class _Stop(Exception):
    """Reading on would make no sense or no end."""


@dataclass
class _Open:
    """A collection whose end has not come yet."""

    start: Span
    anchor: str | None
    is_mapping: bool
    items: list[YamlNode] = field(default_factory=list)
    entries: dict[str, Entry] = field(default_factory=dict)
    key: tuple[str, Span] | None = None
    end: int = 0


class _Composer:
    def __init__(self, source: SourceText) -> None:
        self.source = source
        self.diagnostics: list[Diagnostic] = []
        self.anchors: dict[str, tuple[YamlNode | None, int]] = {}  # None: still open; with the number of nodes in it
        self.stack: list[_Open] = []
        self.num_nodes = 0
        self.position = 0  # how far reading has come
        self.root: YamlNode | None = None

    def run(self, text: str) -> YamlNode | None:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import MarkedYAMLError, YAMLError

        num_documents = 0
        try:
            for event in YAML(typ="safe", pure=True).parse(text):
                kind = type(event).__name__
                self.position = max(self.position, min(event.end_mark.index, len(self.source.text)))
                if kind == "DocumentStartEvent":
                    num_documents += 1
                    self._start_document(event, num_documents)
                else:
                    handler = getattr(self, f"_on_{kind}", None)
                    if handler is not None:
                        handler(event)
        except _Stop:
            pass
        except MarkedYAMLError as error:
            self.diagnostics.append(_syntax_error(error, self.source))
            return None
        except (YAMLError, ValueError, OverflowError) as error:  # the last two: an escape beyond Unicode, "\\UFFFFFFFF"
            self._report("S101", f"this is not YAML: {error}", Span(self.source, self.position, self.position + 1))
            return None
        return self.root

    def _span(self, event: Any) -> Span:
        return Span(self.source, event.start_mark.index, event.end_mark.index)

    def _report(self, code: str, message: str, span: Span, **more: Any) -> None:
        self.diagnostics.append(diagnose(code, message, span=span, **more))

    def _start_document(self, event: Any, number: int) -> None:
        if event.version is not None and tuple(event.version) != (1, 2):
            version = ".".join(str(part) for part in event.version)
            self._report("S114", f"the document asks for YAML {version}, a spec is YAML 1.2", self._span(event))
        if number > 1:
            self._report("S111", "a second document starts here; a spec is one document", self._span(event))
            raise _Stop

    def _on_MappingStartEvent(self, event: Any) -> None:
        self._open(event, is_mapping=True)

    def _on_SequenceStartEvent(self, event: Any) -> None:
        self._open(event, is_mapping=False)

    def _open(self, event: Any, *, is_mapping: bool) -> None:
        span = self._span(event)
        self._check_tag(event, span, known={"map"} if is_mapping else {"seq"})
        if len(self.stack) >= MAX_DEPTH:
            self._report("S112", f"values are nested more than {MAX_DEPTH} deep", span)
            raise _Stop
        if event.anchor:
            self.anchors[event.anchor] = (None, self.num_nodes)
        self.stack.append(_Open(span, event.anchor, is_mapping, end=span.end))
        self._count(1, span)

    def _on_MappingEndEvent(self, event: Any) -> None:
        self._close(event)

    def _on_SequenceEndEvent(self, event: Any) -> None:
        self._close(event)

    def _close(self, event: Any) -> None:
        top = self.stack.pop()
        is_flow = event.end_mark.index > event.start_mark.index  # `}` or `]`; a block ends where the next thing starts
        end = event.end_mark.index if is_flow else top.end
        span = Span(self.source, top.start.start, max(end, top.start.start))
        node = MappingNode(top.entries, span) if top.is_mapping else SequenceNode(tuple(top.items), span)
        if top.anchor:
            self.anchors[top.anchor] = (node, self.num_nodes - self.anchors[top.anchor][1])
        self._add(node)

    def _on_ScalarEvent(self, event: Any) -> None:
        span = self._span(event)
        is_plain = bool(event.implicit[0])
        self._count(1, span)
        self._check_tag(event, span, known=_SCALAR_TAGS)
        forbidden = _FORBIDDEN.search(event.value)
        if forbidden is not None:
            self._report("S101", f"the character U+{ord(forbidden[0]):04X} may not stand in text", span)
            raise _Stop
        node = ScalarNode(self._resolve(event.value, span) if is_plain else self._tagged(event, span), span)
        if event.anchor:
            self.anchors[event.anchor] = (node, 1)
        if self.stack and self.stack[-1].is_mapping and self.stack[-1].key is None:
            self._start_entry(event.value, span)
        else:
            self._add(node)

    def _on_AliasEvent(self, event: Any) -> None:
        span = self._span(event)
        known = self.anchors.get(event.anchor)
        if known is None:
            self._report("S114", f"`*{event.anchor}` refers to no anchor above it", span)
            node: YamlNode = ScalarNode(None, span)
        elif known[0] is None:
            self._report("S114", f"`*{event.anchor}` contains itself", span)
            raise _Stop
        else:
            node = replace(known[0], span=span)
            self._count(known[1], span)
        self._add(node)

    def _count(self, more: int, span: Span) -> None:
        self.num_nodes += more
        if self.num_nodes > MAX_NODES:
            self._report("S112", f"with aliases written out the spec has more than {MAX_NODES:,} values", span)
            raise _Stop

    def _add(self, node: YamlNode) -> None:
        if not self.stack:
            self.root = node
            return
        top = self.stack[-1]
        top.end = max(top.end, node.span.end)
        if not top.is_mapping:
            top.items.append(node)
        elif top.key is None:
            self._report("S114", "a key is a word, this one is a list or a mapping", node.span)
            top.key = ("", node.span)
        else:
            name, key = top.key
            top.key = None
            if isinstance(node, ScalarNode) and node.span.start == node.span.end:
                node = replace(node, span=key)  # `key:` with nothing behind it: the key is all there is to see
            top.entries.setdefault(name, Entry(key, node))

    def _start_entry(self, name: str, span: Span) -> None:
        top = self.stack[-1]
        top.end = max(top.end, span.end)
        top.key = (name, span)
        first = top.entries.get(name)
        if first is not None:
            self._report("S103", f"`{name}` is given twice", span, labels=[Label("first given here", span=first.key)])

    def _tagged(self, event: Any, span: Span) -> Scalar:
        """A scalar in quotes, or of a kind that a tag names."""
        kind = _KINDS.get(_tag_name(event))
        if kind is None:
            return event.value
        value = self._resolve(event.value, span)
        if type(value) not in kind:
            self._report("S114", f"`{event.value}` is not what its tag `!!{_tag_name(event)}` says", span)
        return value

    def _check_tag(self, event: Any, span: Span, *, known: set[str]) -> None:
        tag, name = str(event.tag) if event.tag is not None else "", _tag_name(event)
        if tag and tag != "!" and name not in known:
            self._report(
                "S114", f"the tag `{tag}` has no meaning {'in a spec' if name not in _ALL_TAGS else 'here'}", span
            )

    def _resolve(self, text: str, span: Span) -> Scalar:
        """A plain scalar by YAML 1.2's core schema."""
        if text in _NULL:
            return None
        if text in _BOOL:
            return _BOOL[text]
        if _INT.fullmatch(text):
            return self._int(text, span)
        if _FLOAT.fullmatch(text):
            value = float(text)
            if math.isfinite(value):
                return value
        elif not _NOT_FINITE.fullmatch(text):
            return text
        self._report("S113", f"{text} is not a finite number", span)
        return None

    def _int(self, text: str, span: Span) -> int | None:
        if len(text) > MAX_DIGITS:
            self._report("S113", f"a number of {len(text):,} digits has no use in a spec", span)
            return None
        return int(text, 0) if text[:2] in ("0x", "0o") else int(text)


_PLAIN_WORDS = (
    (r"found character '\\t'.*", "a tab may not stand here: use spaces"),
    (r"mapping values are not allowed here", "a `:` stands where no value can start; is the line above indented as meant, or a quote missing?"),
    (r"could not find expected ':'", "a `key:` was expected here"),
    (r"expected <block end>, but found .*", "this line is not indented like its neighbours"),
    (r"expected ',' or '\]'.*", "a `,` or `]` is missing in a list"),
    (r"expected ',' or '\}'.*", "a `,` or `}` is missing in a mapping"),
    (r"found unexpected end of stream", "this quote is never closed"),
    (r"did not find expected .*|expected the node content.*", "a value was expected here"),
)  # fmt: skip


_OPENED = re.compile(r"while (parsing a flow|scanning a quoted).*")
_NEVER_CLOSED = "found unexpected end of stream"


def _syntax_error(error: Any, source: SourceText) -> Diagnostic:
    """ruamel's complaint in plain words, at its mark; where it began as a second label."""
    problem = (error.problem or error.context or "this is not YAML").strip()
    context = (error.context or "").strip()
    mark, began = error.problem_mark or error.context_mark, error.context_mark
    if problem == _NEVER_CLOSED:
        mark, began = began or mark, None
    message = next((plain for pattern, plain in _PLAIN_WORDS if re.fullmatch(pattern, problem)), problem)
    span = _at(mark, source)
    labels = []
    if began is not None and context and _at(began, source).line != span.line:
        labels = [Label("opened here" if _OPENED.match(context) else context, span=_at(began, source))]
    return diagnose("S101", message, span=span, labels=labels)


def _at(mark: Any, source: SourceText) -> Span:
    start = 0 if mark is None else min(mark.index, len(source.text))
    return Span(source, start, start + 1)
