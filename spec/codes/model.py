"""M1xx: a model whose numbers do not go together."""

from __future__ import annotations

from .entry import Code


class HeadsNotDivisible(Code):
    """Query heads cannot be shared out evenly over key/value heads.

    Each key/value head serves the same number of query heads, so `num_heads` is a multiple of `num_kv_heads`.
    """

    id, slug = "M101", "heads-not-divisible"
    failing = """
        model: {preset: llama-3-8b, num_kv_heads: 5}
        hardware: {accelerator: cpu}
    """
    fixed = """
        model: {preset: llama-3-8b, num_kv_heads: 4}
        hardware: {accelerator: cpu}
    """


class KvHeadsOfKind(Code):
    """The number of key/value heads is not that of the attention kind.

    `mha` has as many as query heads, `mqa` has one, `gqa` any divisor of the query heads.
    """

    id, slug = "M102", "kv-heads-of-kind"
    failing = """
        model: {preset: gpt2, num_kv_heads: 4}
        hardware: {accelerator: cpu}
    """
    fixed = """
        model: {preset: gpt2, num_kv_heads: 4, attention: {kind: gqa}}
        hardware: {accelerator: cpu}
    """


class RotaryDim(Code):
    """The rotated part of a head is odd, or larger than the head.

    Rotary embedding turns pairs of numbers, so the rotated part is even. By default it is the whole head
    (`qk_rope_head_dim` for mla); `position.rotary_dim` makes it smaller.
    """

    id, slug = "M103", "rotary-dim"
    failing = """
        model: {preset: llama-3-8b, position: {rotary_dim: 256}}
        hardware: {accelerator: cpu}
    """
    fixed = """
        model: {preset: llama-3-8b, position: {rotary_dim: 64}}
        hardware: {accelerator: cpu}
    """


class PositionNeeds(Code):
    """A position encoding that the rest of the model cannot use.

    ALiBi biases scores by the distance to earlier tokens, so it needs a decoder. Latent attention (mla) carries positions in
    a rotated part of each head, so it needs rope.
    """

    id, slug = "M104", "position-needs"
    failing = """
        model: {preset: deepseek-v3, position: {kind: alibi}}
        hardware: {accelerator: h100-sxm-80g}
    """
    fixed = """
        model: {preset: deepseek-v3}
        hardware: {accelerator: h100-sxm-80g}
    """


class TooFewExperts(Code):
    """A token is to visit more experts than there are, or than its groups hold."""

    id, slug = "M105", "too-few-experts"
    failing = """
        model: {preset: mixtral-8x7b, moe: {experts_per_token: 9}}
        hardware: {accelerator: h100-sxm-80g}
    """
    fixed = """
        model: {preset: mixtral-8x7b, moe: {experts_per_token: 2}}
        hardware: {accelerator: h100-sxm-80g}
    """


class ExpertGroups(Code):
    """Experts cannot be divided into the groups that the router chooses from.

    `num_experts` is a multiple of `router.groups`, and `topk_groups` is at most `groups`.
    """

    id, slug = "M106", "expert-groups"
    failing = """
        model: {preset: mixtral-8x7b, moe: {router: {groups: 3}}}
        hardware: {accelerator: h100-sxm-80g}
    """
    fixed = """
        model: {preset: mixtral-8x7b, moe: {router: {groups: 4, topk_groups: 2}}}
        hardware: {accelerator: h100-sxm-80g}
    """


class NoExpertLayers(Code):
    """No layer of the model has experts, though `moe` is given.

    Layer i, counted from 0, has experts if i >= first_dense_layers and (i - first_dense_layers + 1) is a multiple of `every`.
    """

    id, slug = "M107", "no-expert-layers"
    failing = """
        model: {preset: mixtral-8x7b, num_layers: 4, moe: {every: 8}}
        hardware: {accelerator: h100-sxm-80g}
    """
    fixed = """
        model: {preset: mixtral-8x7b, num_layers: 4, moe: {every: 2}}
        hardware: {accelerator: h100-sxm-80g}
    """


class ScalingFactors(Code):
    """LongRoPE has another number of factors than rotated pairs.

    `short_factor` and `long_factor` hold one number for each pair, that is half of the rotated part of a head.
    """

    id, slug = "M108", "scaling-factors"
    failing = """
        model:
          preset: llama-3-8b
          position: {scaling: {kind: longrope, short_factor: [1, 1], long_factor: [4, 4], original_max_seq_len: 4096}}
        hardware: {accelerator: cpu}
    """
    fixed = """
        model:
          preset: llama-3-8b
          position: {scaling: {kind: linear, factor: 4}}
        hardware: {accelerator: cpu}
    """


class SharedExpertNeeded(Code):
    """An option of shared experts without a shared expert.

    `shared_gate` and `shared_intermediate_size` describe the experts that every token visits; `shared_experts` says how many there are.
    """

    id, slug = "M109", "shared-expert-needed"
    failing = """
        model: {preset: mixtral-8x7b, moe: {shared_gate: true}}
        hardware: {accelerator: h100-sxm-80g}
    """
    fixed = """
        model: {preset: mixtral-8x7b, moe: {shared_gate: true, shared_experts: 1}}
        hardware: {accelerator: h100-sxm-80g}
    """


class WindowWithoutEffect(Code):
    """A sliding window that no sequence outgrows.

    A window of `max_seq_len` tokens or more is the same as none.
    """

    id, slug, severity = "M110", "window-without-effect", "warning"
    failing = """
        model: {preset: llama-3-8b, attention: {window: 16384}}
        hardware: {accelerator: cpu}
    """
    fixed = """
        model: {preset: llama-3-8b, attention: {window: 4096}}
        hardware: {accelerator: cpu}
    """
