"""S31x: machines and servers that do not go together with the rest. S4xx: keys without effect."""

from __future__ import annotations

from .entry import Code


class NoTorus(Code):
    """`topology` on an accelerator that is not wired as a torus.

    Other accelerators are counted by `nodes` and `per_node`.
    """

    id, slug = "S310", "no-torus"
    failing = """
        model: {preset: llama-3-8b}
        hardware: {accelerator: h100-sxm-80g, topology: 4x4x8}
    """
    fixed = """
        model: {preset: llama-3-8b}
        hardware: {accelerator: h100-sxm-80g, nodes: 16, per_node: 8}
    """


class TorusSides(Code):
    """A topology has another number of sides than the accelerator's torus.

    TPU v4, v5p and v7x are wired in three dimensions, v5e and v6e in two.
    """

    id, slug = "S311", "torus-sides"
    failing = """
        model: {preset: llama-3-8b}
        hardware: {accelerator: tpu-v5p, topology: 16x16}
    """
    fixed = """
        model: {preset: llama-3-8b}
        hardware: {accelerator: tpu-v5p, topology: 4x8x8}
    """


class NotCalibrated(Code):
    """Figures of `llmc doctor --calibrate` beside an accelerator that is no CPU.

    `op_us`, `products` and `kernels` say how far a processor's own programs are from its peaks. Other devices have constants that were
    fitted on published measurements.
    """

    id, slug = "S317", "not-calibrated"
    failing = """
        model: {preset: llama-3-8b}
        hardware: {accelerator: {like: h100-sxm-80g, op_us: 3}, nodes: 1, per_node: 8}
    """
    fixed = """
        model: {preset: llama-3-8b}
        hardware: {accelerator: h100-sxm-80g, nodes: 1, per_node: 8}
    """


class SlicesWithoutTopology(Code):
    """`slices` without the sides of one.

    A slice is a torus of TPUs, and `slices` says how many of the same `topology` the data centre's network joins. Other machines
    are counted by `nodes`.
    """

    id, slug = "S318", "slices-without-topology"
    failing = """
        model: {preset: llama-3-8b}
        hardware: {accelerator: h100-sxm-80g, slices: 2}
    """
    fixed = """
        model: {preset: llama-3-8b}
        hardware: {accelerator: h100-sxm-80g, nodes: 2}
    """


class WorkloadUnclear(Code):
    """The workload is not one of the four that a server can be planned for.

    An open loop has `requests_per_s`; a closed loop has `concurrency` and may have `requests`; a static batch has
    `concurrency` and `arrival: static`; these three need `input_tokens` and `output_tokens`. A `trace` says all of it.
    """

    id, slug = "S312", "workload-unclear"
    failing = """
        model: {preset: llama-3-8b}
        hardware: {accelerator: h100-sxm-80g}
        serve:
          max_seq_len: 4096
          workload: {input_tokens: 1024, output_tokens: 256, requests_per_s: 4, concurrency: 64}
    """
    fixed = """
        model: {preset: llama-3-8b}
        hardware: {accelerator: h100-sxm-80g}
        serve:
          max_seq_len: 4096
          workload: {input_tokens: 1024, output_tokens: 256, requests_per_s: 4}
    """


class RequestTooLong(Code):
    """The mean request is longer than the longest one that the server accepts.

    `serve.max_seq_len` bounds prompt and answer together.
    """

    id, slug = "S313", "request-too-long"
    failing = """
        model: {preset: llama-3-8b}
        hardware: {accelerator: h100-sxm-80g}
        serve:
          max_seq_len: 1024
          workload: {input_tokens: 1024, output_tokens: 256, requests_per_s: 4}
    """
    fixed = """
        model: {preset: llama-3-8b}
        hardware: {accelerator: h100-sxm-80g}
        serve:
          max_seq_len: 2048
          workload: {input_tokens: 1024, output_tokens: 256, requests_per_s: 4}
    """


class SloOrder(Code):
    """The median is allowed to be worse than the 99th percentile.

    A median is never above the 99th percentile of the same times, so the looser bound says nothing.
    """

    id, slug = "S314", "slo-order"
    failing = """
        model: {preset: llama-3-8b}
        hardware: {accelerator: h100-sxm-80g}
        serve:
          max_seq_len: 4096
          slo: {ttft_p50_ms: 800, ttft_p99_ms: 500}
    """
    fixed = """
        model: {preset: llama-3-8b}
        hardware: {accelerator: h100-sxm-80g}
        serve:
          max_seq_len: 4096
          slo: {ttft_p50_ms: 200, ttft_p99_ms: 500}
    """


class UnreadKey(Code):
    """A key has no effect in this spec.

    Every key is read by some pass of the compiler or is an error, so that nothing is ever silently ignored: neither a key
    that another one makes meaningless, nor one whose pass is not written yet. The message says why, where it is known.
    """

    id, slug = "S401", "unread-key"
    failing = """
        model: {preset: llama-3-8b, attention: {global_every: 2}}
        hardware: {accelerator: h100-sxm-80g}
        train: {objective: causal_lm, seq_len: 4096, steps: 1000, global_batch: 8}
    """
    fixed = """
        model: {preset: llama-3-8b, attention: {global_every: 2, window: 1024}}
        hardware: {accelerator: h100-sxm-80g}
        train: {objective: causal_lm, seq_len: 4096, steps: 1000, global_batch: 8}
    """
