"""S104 to S117: keys and values that the language does not have."""

from __future__ import annotations

from .entry import Code


class UnknownField(Code):
    """A key that the language does not have at this place.

    Every key of a spec is consumed by something or is an error: a misspelt key that was ignored would train another
    model than the one asked for. The fields that exist are listed, closest first. A field of another kind (`window`
    belongs to mha, mqa and gqa, not to mla) is unknown too.
    """

    id, slug = "S104", "unknown-field"
    failing = """
        model: {preset: gpt2, attention: {windw: 256}}
        hardware: {accelerator: cpu}
    """
    fixed = """
        model: {preset: gpt2, attention: {window: 256}}
        hardware: {accelerator: cpu}
    """


class MissingField(Code):
    """A field without a default is not given.

    All fields that a mapping lacks are named together, at the key of the mapping.
    """

    id, slug = "S105", "missing-field"
    failing = """
        model: {preset: gpt2}
        hardware: {nodes: 1}
    """
    fixed = """
        model: {preset: gpt2}
        hardware: {nodes: 1, accelerator: cpu}
    """


class WrongType(Code):
    """A value is of another kind than its field.

    Text where a number is due, a list where a mapping is due, and so on. A spec is YAML 1.2: `yes`, `no`, `on` and `off`
    are words there, not true and false, and a number in quotes is text.
    """

    id, slug = "S106", "wrong-type"
    failing = """
        model: {preset: gpt2, tie_embeddings: yes}
        hardware: {accelerator: cpu}
    """
    fixed = """
        model: {preset: gpt2, tie_embeddings: true}
        hardware: {accelerator: cpu}
    """


class OutOfRange(Code):
    """A number, or the length of a list, is outside what its field allows."""

    id, slug = "S107", "out-of-range"
    failing = """
        model: {preset: gpt2}
        hardware: {accelerator: cpu, nodes: 0}
    """
    fixed = """
        model: {preset: gpt2}
        hardware: {accelerator: cpu, nodes: 1}
    """


class UnknownChoice(Code):
    """A word that is not among those a field takes."""

    id, slug = "S108", "unknown-choice"
    failing = """
        model: {preset: gpt2, mlp: {activation: swigloo}}
        hardware: {accelerator: cpu}
    """
    fixed = """
        model: {preset: gpt2, mlp: {activation: swiglu}}
        hardware: {accelerator: cpu}
    """


class UnknownKind(Code):
    """A `kind`, `name` or `target` that the language does not have.

    It decides which other fields a mapping takes, so those are not judged before the kind is known.
    """

    id, slug = "S109", "unknown-kind"
    failing = """
        model: {preset: gpt2, attention: {kind: gka}}
        hardware: {accelerator: cpu}
    """
    fixed = """
        model: {preset: gpt2, attention: {kind: gqa}}
        hardware: {accelerator: cpu}
    """


class BadCount(Code):
    """A count is not written as one.

    A count is a whole number, with `k`, `M`, `B` or `T` for thousands, millions, billions (10^9) and trillions (10^12):
    `4096`, `4k`, `8M`, `1.5B`, `15T`. Suffixes are case-sensitive and decimal: `4k` is 4,000, not 4,096. A quantity with
    a physical unit carries it in its name (`memory_gib`) and takes a plain number.
    """

    id, slug = "S115", "bad-count"
    failing = """
        model: {preset: gpt2, max_seq_len: 1K}
        hardware: {accelerator: cpu}
    """
    fixed = """
        model: {preset: gpt2, max_seq_len: 1k}
        hardware: {accelerator: cpu}
    """


class BadFormat(Code):
    """A text does not have the form that its field asks for."""

    id, slug = "S116", "bad-format"
    failing = """
        name: My Model
        model: {preset: gpt2}
        hardware: {accelerator: cpu}
    """
    fixed = """
        name: my-model
        model: {preset: gpt2}
        hardware: {accelerator: cpu}
    """


class Exclusive(Code):
    """Two fields say the same thing in different ways; one of them can."""

    id, slug = "S117", "exclusive-fields"
    failing = """
        model: {preset: gpt2, family: gpt2}
        hardware: {accelerator: cpu}
    """
    fixed = """
        model: {preset: gpt2}
        hardware: {accelerator: cpu}
    """
