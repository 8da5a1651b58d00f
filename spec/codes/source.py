"""S1xx, S2xx: the text of a spec, and what it is put together from."""

from __future__ import annotations

from .entry import Code


class YamlSyntax(Code):
    """The text is not YAML.

    A spec is YAML 1.2. Frequent causes: a tab in the indentation, a quote that is not closed, a `:` or `#` inside a
    value without quotes, a line indented differently from its neighbours. The caret stands where the reader gave up;
    the fault may be on the line above.
    """

    id, slug = "S101", "yaml-syntax"
    failing = """
        model: {preset: gpt2
        hardware: {accelerator: cpu}
    """
    fixed = """
        model: {preset: gpt2}
        hardware: {accelerator: cpu}
    """


class UnreadableFile(Code):
    """The file cannot be read as a spec.

    It does not exist, is a folder or a device, is larger than a spec can sensibly be, or is not UTF-8.
    """

    id, slug = "S102", "unreadable-file"
    failing = "\xff"
    fixed = """
        model: {preset: gpt2}
        hardware: {accelerator: cpu}
    """
    encoding = "latin-1"


class DuplicateKey(Code):
    """A mapping has the same key twice.

    YAML forbids it, and readers that allow it silently keep one of the two. llmc does not guess which one was meant.
    """

    id, slug = "S103", "duplicate-key"
    failing = """
        model: {preset: gpt2, num_layers: 6, num_layers: 8}
        hardware: {accelerator: cpu}
    """
    fixed = """
        model: {preset: gpt2, num_layers: 8}
        hardware: {accelerator: cpu}
    """


class NotAMapping(Code):
    """The document is not a mapping of sections.

    A spec starts with keys such as `model:` and `hardware:`. An empty file, a list or a single word says nothing.
    """

    id, slug = "S110", "not-a-mapping"
    failing = """
        - model
        - hardware
    """
    fixed = """
        model: {preset: gpt2}
        hardware: {accelerator: cpu}
    """


class SeveralDocuments(Code):
    """The file holds more than one YAML document.

    A line `---` starts another document. One file is one spec; give `llmc plan` several files to plan several specs.
    """

    id, slug = "S111", "several-documents"
    failing = """
        model: {preset: gpt2}
        hardware: {accelerator: cpu}
        ---
        model: {preset: gpt2}
    """
    fixed = """
        model: {preset: gpt2}
        hardware: {accelerator: cpu}
    """


class TooLarge(Code):
    """The document is larger or deeper than any spec.

    A spec is untrusted text, so there are limits: on its characters, on the number of values with all aliases written
    out (a few lines of aliases can stand for billions of values), and on nesting.
    """

    id, slug = "S112", "too-large"
    failing = """
        model: {preset: gpt2}
        hardware: {accelerator: [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[cpu]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}
    """
    fixed = """
        model: {preset: gpt2}
        hardware: {accelerator: cpu}
    """


class NotFinite(Code):
    """A number is infinite, not a number, or absurdly long.

    Nothing in a spec is infinite. To leave a limit open, write `null` or leave the key out.
    """

    id, slug = "S113", "not-finite"
    failing = """
        model: {preset: gpt2}
        hardware: {accelerator: cpu, price_per_hour_usd: .inf}
    """
    fixed = """
        model: {preset: gpt2}
        hardware: {accelerator: cpu, price_per_hour_usd: 0.1}
    """


class UnsupportedYaml(Code):
    """YAML that a spec has no use for.

    Foreign tags (`!!python/object`, `!include`), keys that are not words, `%YAML 1.1`, and aliases that name no anchor or
    contain themselves. Anchors and aliases are fine; `<<` is not part of YAML 1.2, use `extends` or write the keys out.
    """

    id, slug = "S114", "unsupported-yaml"
    failing = """
        model: {preset: gpt2}
        hardware: {accelerator: !include cpu.yaml}
    """
    fixed = """
        model: {preset: gpt2}
        hardware: {accelerator: cpu}
    """


class ExtendsNotRead(Code):
    """A spec that this one extends cannot be read.

    `extends: base.yaml` names a spec relative to the file that says so. Absolute paths are refused, so that a spec
    means the same on every machine, and so are files that are not YAML.
    """

    id, slug = "S201", "extends-not-read"
    failing = """
        extends: missing.yaml
        hardware: {accelerator: cpu}
        model: {preset: gpt2}
    """
    fixed = """
        extends: base.yaml
        hardware: {accelerator: cpu}
    """
    files = {"base.yaml": "model: {preset: gpt2}\n"}  # noqa: RUF012


class ExtendsCycle(Code):
    """A spec extends itself.

    Directly, or by way of the specs that it extends.
    """

    id, slug = "S202", "extends-cycle"
    failing = """
        extends: spec.yaml
        model: {preset: gpt2}
        hardware: {accelerator: cpu}
    """
    fixed = """
        model: {preset: gpt2}
        hardware: {accelerator: cpu}
    """


class BadOverride(Code):
    """A `--set` option cannot be applied.

    An override is `key.key=value`, for example `--set train.optimizer.lr=1e-4`. The value is YAML. Items of a list are
    named by number, counted from 0; with a single training stage the number may be left out.
    """

    id, slug = "S203", "bad-override"
    failing = """
        model: {preset: gpt2}
        hardware: {accelerator: cpu}
    """
    fixed = failing
    failing_set = ("hardware.nodes",)
    fixed_set = ("hardware.nodes=2",)


class UnknownPreset(Code):
    """The catalog has no preset of this name.

    A preset is a published model with every dimension filled in. For another model give `family:` and the dimensions,
    or `hf:` with the folder of its config.json.
    """

    id, slug = "S204", "unknown-preset"
    failing = """
        model: {preset: lama-3-8b}
        hardware: {accelerator: cpu}
    """
    fixed = """
        model: {preset: llama-3-8b}
        hardware: {accelerator: cpu}
    """


class UnknownFamily(Code):
    """The catalog has no family of this name.

    A family is the block style of a line of models (norms, activation, position encoding); the dimensions are yours.
    """

    id, slug = "S205", "unknown-family"
    failing = """
        model: {family: lama, hidden_size: 64, num_layers: 2, num_heads: 4, intermediate_size: 128, vocab_size: 256, max_seq_len: 64}
        hardware: {accelerator: cpu}
    """
    fixed = """
        model: {family: llama, hidden_size: 64, num_layers: 2, num_heads: 4, intermediate_size: 128, vocab_size: 256, max_seq_len: 64}
        hardware: {accelerator: cpu}
    """


class UnknownAccelerator(Code):
    """The catalog has no accelerator of this name.

    Name one that it has, or describe yours by the one that it resembles: `{like: h100-sxm-80g, memory_gib: 96}`.
    """

    id, slug = "S206", "unknown-accelerator"
    failing = """
        model: {preset: gpt2}
        hardware: {accelerator: h100-sxm-80gb}
    """
    fixed = """
        model: {preset: gpt2}
        hardware: {accelerator: h100-sxm-80g}
    """


class HfConfigNotRead(Code):
    """The folder named by `model.hf` has no readable config.json.

    The folder is taken relative to the file that names it. Download the model's config.json into it; the weights are
    only needed to start from them.
    """

    id, slug = "S207", "hf-config-not-read"
    failing = """
        model: {hf: no-such-folder}
        hardware: {accelerator: cpu}
    """
    fixed = """
        model: {preset: gpt2}
        hardware: {accelerator: cpu}
    """


class HfConfigUnsupported(Code):
    """The Hugging Face configuration asks for something that llmc cannot express.

    The message names the field. llmc refuses rather than building a model that differs from the one configured.
    """

    id, slug = "S208", "hf-config-unsupported"
    failing = """
        model: {hf: strange}
        hardware: {accelerator: cpu}
    """
    fixed = """
        model: {preset: gpt2}
        hardware: {accelerator: cpu}
    """
    files = {"strange/config.json": '{"model_type": "strange"}\n'}  # noqa: RUF012


class UnknownHost(Code):
    """The catalog has no host, or no storage, of this name.

    Name one that it has, or give the figures: `storage: {kind: parallel, host_write_gb_s: 5, write_gb_s: 200}`.
    """

    id, slug = "S209", "unknown-host"
    failing = """
        model: {preset: gpt2}
        hardware: {accelerator: cpu, storage: lustr}
    """
    fixed = """
        model: {preset: gpt2}
        hardware: {accelerator: cpu, storage: lustre}
    """
