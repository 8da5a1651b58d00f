"""Codes of planning: what fits, what divides, what a machine can hold."""

from __future__ import annotations

from .entry import Code


class TooManyLayers(Code):
    """A model has more layers than a plan can name.

    Every layer has a place in the graph's order and lines of its own in a checkpoint. The bound is far above any model
    that was ever trained; a number beyond it is a typing error.
    """

    id = "P210"
    slug = "too-many-layers"
    stage = "plan"
    failing = """
        llmc: 1
        model: {preset: llama-3-8b, num_layers: 32M}
        hardware: {accelerator: h100-sxm-80g}
        """
    fixed = """
        llmc: 1
        model: {preset: llama-3-8b, num_layers: 32}
        hardware: {accelerator: h100-sxm-80g}
        """


class DoesNotFit(Code):
    """No layout fits: every one needs more memory than a device has.

    The headline compares what the nearest layout needs with what a device has, the note under it says what fills the
    memory, and the help names a change that was planned and fits. Exit code 3: the spec is right, the machine is too
    small for it.
    """

    id = "P201"
    slug = "does-not-fit"
    stage = "plan"
    failing = """
        llmc: 1
        model: {preset: llama-3-8b}
        hardware: {accelerator: h100-sxm-80g, nodes: 1, per_node: 1}
        train: {objective: causal_lm, steps: 100, seq_len: 8192, global_batch: 64}
        parallel: auto
        """
    fixed = """
        llmc: 1
        model: {preset: llama-3-8b}
        hardware: {accelerator: h100-sxm-80g, nodes: 1, per_node: 8}
        train: {objective: causal_lm, steps: 100, seq_len: 8192, global_batch: 64}
        parallel: auto
        """


class DoesNotDivide(Code):
    """A degree of parallelism does not divide what it splits.

    Tensor parallelism splits heads and the width of the feed-forward block, context parallelism the sequence, expert
    parallelism the experts, data parallelism the batch; a pipeline needs at least one layer a stage. The help names a
    degree that was planned and works.
    """

    id = "P202"
    slug = "does-not-divide"
    stage = "plan"
    failing = """
        llmc: 1
        model: {preset: llama-3-8b}
        hardware: {accelerator: h100-sxm-80g, nodes: 3, per_node: 8}
        train: {objective: causal_lm, steps: 100, seq_len: 8192, global_batch: 64}
        parallel: {tp: 3, dp_shard: 8, zero: 3}
        """
    fixed = """
        llmc: 1
        model: {preset: llama-3-8b}
        hardware: {accelerator: h100-sxm-80g, nodes: 2, per_node: 8}
        train: {objective: causal_lm, steps: 100, seq_len: 8192, global_batch: 64}
        parallel: {tp: 2, dp_shard: 8, zero: 3}
        """


class WrongSize(Code):
    """The layout is for another number of devices than the machine has.

    The product dp_replicate × dp_shard × tp × cp × pp is the number of devices (ep is taken out of dp_shard × cp). Without
    `rest: auto` a degree that is not written is 1.
    """

    id = "P203"
    slug = "wrong-size"
    stage = "plan"
    failing = """
        llmc: 1
        model: {preset: llama-3-8b}
        hardware: {accelerator: h100-sxm-80g, nodes: 2, per_node: 8}
        train: {objective: causal_lm, steps: 100, seq_len: 8192, global_batch: 64}
        parallel: {tp: 2, dp_shard: 4, zero: 3}
        """
    fixed = """
        llmc: 1
        model: {preset: llama-3-8b}
        hardware: {accelerator: h100-sxm-80g, nodes: 2, per_node: 8}
        train: {objective: causal_lm, steps: 100, seq_len: 8192, global_batch: 64}
        parallel: {tp: 2, dp_shard: 8, zero: 3}
        """


class HostTooSmall(Code):
    """Optimizer states that `parallel.offload` moves to the host have no room there.

    A node's host keeps the states of its devices, and while a checkpoint is written a copy of them and of the weights. The help
    names a size that was planned and works.
    """

    id = "P204"
    slug = "host-too-small"
    stage = "plan"
    failing = """
        llmc: 1
        model: {preset: llama-3-8b}
        hardware: {accelerator: a100-sxm-40g, nodes: 1, per_node: 2, host: {like: dgx-a100, memory_gib: 96}}
        train: {objective: causal_lm, steps: 100, seq_len: 4096, global_batch: 64}
        parallel: {offload: optimizer, rest: auto}
        """
    fixed = """
        llmc: 1
        model: {preset: llama-3-8b}
        hardware: {accelerator: a100-sxm-40g, nodes: 1, per_node: 2, host: {like: dgx-a100, memory_gib: 192}}
        train: {objective: causal_lm, steps: 100, seq_len: 4096, global_batch: 64}
        parallel: {offload: optimizer, rest: auto}
        """


class TooManyDevices(Code):
    """A machine has more devices than a layout is searched for.

    The bound, a million, is above any machine that exists; a number beyond it is a typing error.
    """

    id = "P211"
    slug = "too-many-devices"
    stage = "plan"
    failing = """
        llmc: 1
        model: {preset: llama-3-8b}
        hardware: {accelerator: h100-sxm-80g, nodes: 1M, per_node: 8}
        """
    fixed = """
        llmc: 1
        model: {preset: llama-3-8b}
        hardware: {accelerator: h100-sxm-80g, nodes: 1k, per_node: 8}
        """


class MissesObjective(Code):
    """No serving layout on this machine holds the service-level objective.

    The nearest layout is named with what it misses by. More devices, another format of the weights, or a looser
    objective are the ways out. Exit code 3.
    """

    id = "P220"
    slug = "misses-objective"
    stage = "plan"
    failing = """
        llmc: 1
        model: {preset: llama-3-8b}
        hardware: {accelerator: h100-sxm-80g, nodes: 1, per_node: 1}
        serve:
          max_seq_len: 8192
          workload: {input_tokens: 2048, output_tokens: 256, requests_per_s: 200}
          slo: {ttft_p99_ms: 600, tpot_p99_ms: 40}
        """
    fixed = """
        llmc: 1
        model: {preset: llama-3-8b}
        hardware: {accelerator: h100-sxm-80g, nodes: 1, per_node: 1}
        serve:
          max_seq_len: 8192
          workload: {input_tokens: 2048, output_tokens: 256, requests_per_s: 1}
          slo: {ttft_p99_ms: 600, tpot_p99_ms: 40}
        """


class BelowPhysicalLimit(Code):
    """A time per token is asked for that no software can reach on this machine.

    Each token needs every weight once, and reading them at the full memory bandwidth already takes longer. Weights in
    fewer bytes, more tensor-parallel devices, or a faster accelerator move the limit. Exit code 3.
    """

    id = "P221"
    slug = "below-physical-limit"
    stage = "plan"
    failing = """
        llmc: 1
        model: {preset: llama-3-8b}
        hardware: {accelerator: h100-sxm-80g, nodes: 1, per_node: 1}
        serve:
          max_seq_len: 8192
          workload: {input_tokens: 2048, output_tokens: 256, requests_per_s: 1}
          slo: {tpot_p99_ms: 1}
        """
    fixed = """
        llmc: 1
        model: {preset: llama-3-8b}
        hardware: {accelerator: h100-sxm-80g, nodes: 1, per_node: 1}
        serve:
          max_seq_len: 8192
          workload: {input_tokens: 2048, output_tokens: 256, requests_per_s: 1}
          slo: {tpot_p99_ms: 40}
        """


class UnusableTrace(Code):
    """The recorded requests of `serve.workload.trace` cannot be played.

    A trace is a .jsonl, its path relative to the spec, with a line for each request: {"time_s": 0.25, "input_tokens": 900,
    "output_tokens": 120}. It says the rate and the lengths, so they are not said again beside it.
    """

    id = "P222"
    slug = "unusable-trace"
    stage = "plan"
    failing = """
        llmc: 1
        model: {preset: llama-3-8b}
        hardware: {accelerator: h100-sxm-80g, nodes: 1, per_node: 1}
        serve:
          max_seq_len: 8192
          workload: {trace: nowhere.jsonl}
        """
    fixed = """
        llmc: 1
        model: {preset: llama-3-8b}
        hardware: {accelerator: h100-sxm-80g, nodes: 1, per_node: 1}
        serve:
          max_seq_len: 8192
          workload: {input_tokens: 2048, output_tokens: 256, requests_per_s: 1}
        """


class UnknownNetwork(Code):
    """The bandwidth between nodes is in neither the spec nor the catalog, so one is assumed.

    Across nodes it decides which layouts are fast. Say it: `hardware: {inter_node_gb_s: 50}`, in GB/s a device and
    direction.
    """

    id = "P231"
    slug = "unknown-network"
    severity = "warning"
    stage = "plan"
    failing = """
        llmc: 1
        model: {preset: gpt2}
        hardware:
          accelerator: {name: my-gpu, kind: gpu, memory_gib: 80, memory_gb_s: 2000, peak_tflops: {bf16: 300}}
          nodes: 2
        train: {objective: causal_lm, steps: 100, seq_len: 1024, global_batch: 64}
        """
    fixed = """
        llmc: 1
        model: {preset: gpt2}
        hardware:
          accelerator: {name: my-gpu, kind: gpu, memory_gib: 80, memory_gb_s: 2000, peak_tflops: {bf16: 300}}
          nodes: 2
          inter_node_gb_s: 25
        train: {objective: causal_lm, steps: 100, seq_len: 1024, global_batch: 64}
        """


class UnknownHost(Code):
    """`parallel.offload` keeps optimizer states in the memory of the host, of which the spec does not say enough.

    What fits there is decided by its size, and how long an update takes by its bandwidth. A host of the catalog has both:
    `hardware: {host: dgx-h100}`. On a CPU there is no other memory to keep them in.
    """

    id = "P232"
    slug = "host-memory-unknown"
    stage = "plan"
    failing = """
        llmc: 1
        model: {preset: gpt2}
        hardware: {accelerator: h100-sxm-80g, nodes: 1, per_node: 8}
        train: {objective: causal_lm, steps: 100, seq_len: 1024, global_batch: 64}
        parallel: {offload: auto, rest: auto}
        """
    fixed = """
        llmc: 1
        model: {preset: gpt2}
        hardware: {accelerator: h100-sxm-80g, nodes: 1, per_node: 8, host: dgx-h100}
        train: {objective: causal_lm, steps: 100, seq_len: 1024, global_batch: 64}
        parallel: {offload: auto, rest: auto}
        """


_PLANNED = """
    llmc: 1
    name: tiny
    model: {family: llama, hidden_size: 64, num_layers: 2, num_heads: 4, intermediate_size: 128, vocab_size: 512, max_seq_len: 64}
    hardware: {accelerator: cpu}
    data: {sources: [{source: python-stdlib}], tokenizer: {train: bpe}}
    train: {objective: causal_lm, steps: 10, seq_len: 32, global_batch: 4, precision: fp32}
    parallel: {recompute: none, rest: auto}
    """


class PlanOfAnotherSpec(Code):
    """The plan that `--plan` names was made for another spec than the one that is built.

    A plan belongs to one spec, by the hash of everything that the spec says. A plan that `llmc plan SPEC --out plan.json`
    wrote carries that spec, so the notes tell which values have changed since. Plan again, or go back to the spec.
    """

    id = "P240"
    slug = "plan-of-another-spec"
    stage = "build"
    failing = _PLANNED
    plan_edits = {"spec_sha256": "0" * 64, "spec": None}  # noqa: RUF012 (as `files`)
    fixed = _PLANNED


class PlanContradictsSpec(Code):
    """The layout of the plan that `--plan` names is not what the spec fixes, or cannot be.

    A plan may be edited, but it fills only what the spec leaves open: a degree that the spec states is changed there. The
    layout is priced anew, so a value that the rest of it rules out is told, too.
    """

    id = "P241"
    slug = "plan-contradicts-spec"
    stage = "build"
    failing = _PLANNED
    plan_edits = {"train.layout.recompute": "full"}  # noqa: RUF012
    fixed = _PLANNED


class NotAPlan(Code):
    """The file that `--plan` names is not a plan.

    It is the JSON that `llmc plan SPEC --out plan.json` writes (or `--json`, with one entry). Every name in it is read; one
    that is not known, or a value of another kind, is an error with its line.
    """

    id = "P242"
    slug = "not-a-plan"
    stage = "build"
    failing = _PLANNED
    plan_edits = {"train.layout.tensor": 2}  # noqa: RUF012
    fixed = _PLANNED
