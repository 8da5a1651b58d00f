"""Bugs to plant in Triton kernels: (kernel, rows, what stands there, what to put in its place)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gpu_samples as samples

from llmc.compiler.kernels.kernel import Kernel

Bug = tuple[Kernel, int, str, str]


def _small(kernel: Any, **tiles: int) -> Any:
    return replace(kernel, tiles=replace(kernel.tiles, **tiles))


_rms = samples.add_norm("fp32", hidden_size=100)
_rms_in_turns = _small(_rms, num_programs=2)
_rms_bf16_stream = samples.add_norm("bf16", hidden_size=100, stream_dtype="bf16")
_offset = samples.add_norm("fp32", hidden_size=7, unit_offset=True)
_layer = samples.add_norm("fp32", hidden_size=100, is_layer=True, has_bias=True)
_layer_normed = samples.add_norm("bf16", hidden_size=100, is_layer=True)
_swiglu = samples.gated("fp32", eager="swiglu", size=1100)
_geglu = samples.gated("fp32", eager="geglu_tanh", size=5)
_attention = samples.causal_attention("fp32")
_window = samples.causal_attention("fp32", num_kv_heads=4, head_dim=16, window=20)
_capped = samples.causal_attention("fp32", head_dim=16, has_rope=False, softcap=3.0)
_partial = samples.causal_attention("fp32", head_dim=48, rotary_dims=16, interleaved=True)
_loss = samples.linear_cross_entropy("fp32", vocab_size=5003, z_loss=1e-2)
_loss_tail = samples.linear_cross_entropy("fp32", vocab_size=8150)  # 42 short of whole blocks, which guards reach over
_capped_loss = samples.linear_cross_entropy("fp32", softcap=3.0)
_adamw = samples.adamw()


_few = {"splits": 2, "keys": 16}
_decode = _small(samples.decode_attention("fp32"), **_few)
_decode_window = _small(samples.decode_attention("fp32", head_dim=48, window=20), **_few)
_decode_capped = _small(
    samples.decode_attention("fp32", head_dim=16, rotary_dims=8, interleaved=True, softcap=3.0), **_few
)
_route = samples.choose_experts()
_top_one = samples.choose_experts(num_experts=8, per_token=1, normalize=False)
_biased = samples.choose_experts(score="sigmoid", scale=2.5, has_bias=True)
_experts = samples.expert_linear("fp32")
_sampling = samples.sampling(vocab_size=37)
_int8 = samples.weight_only_linear("fp32", bits=8, group=64)
_int4 = samples.weight_only_linear("fp32", bits=4, group=64)
_int4_with_offsets = samples.weight_only_linear("fp32", bits=4, group=32, has_offset=True)

BUGS: dict[str, list[Bug]] = {
    "add_norm": [
        (_rms, 5, "        v += tl.load(x + at, mask=mask, other=0.0).to(tl.float32)\n", "        pass\n"),
        (_rms, 5, "tl.sum(v * v, axis=0) / D + EPS", "tl.sum(v * v, axis=0) / BLOCK + EPS"),
        (
            _rms,
            5,
            "1.0 / tl.sqrt(tl.sum(v * v, axis=0) / D + EPS)",
            "1.0 / (tl.sqrt(tl.sum(v * v, axis=0) / D) + 1e-3)",
        ),
        (
            _rms,
            5,
            "tl.store(h + at, y.to(h.dtype.element_ty), mask=mask)",
            "tl.store(h + at, y.to(h.dtype.element_ty))",
        ),
        (_rms_in_turns, 5, "        d_w += d_y * n\n", "        d_w = d_y * n\n"),
        (_rms, 5, "- n * (tl.sum(g * n, axis=0) / D)", ""),
        (_rms, 5, "d_v += tl.load(d_total + at", "d_v -= tl.load(d_total + at"),
        (_rms_bf16_stream, 5, "        n *= scale\n", ""),
        (_offset, 5, "1.0 + tl.load(weight", "tl.load(weight"),
        (_layer, 5, "    v = tl.where(mask, v - middle, 0.0)\n", "    v = v - middle\n"),
        (_layer, 5, "- tl.sum(g, axis=0) / D ", ""),
        (_layer, 5, "        d_b += d_y\n", "        d_b += d_w\n"),
        (_layer_normed, 5, "tl.store(normed + at, v", "tl.store(normed + at, stored"),
    ],
    "gated": [
        (_swiglu, 3, "s + x * s * (1.0 - s)\n", "s + x * s\n"),
        (_swiglu, 3, "f = tl.program_id(1) * BLOCK + ", "f = "),
        (_swiglu, 3, "d_gate_up + row * 2 * F + F + f, (d * active)", "d_gate_up + row * 2 * F + F + f, (d * slope)"),
        (_swiglu, 3, "mask = f < F", "mask = f <= F"),
        (_geglu, 3, "0.21406444881780073", "0.0713548162726"),
    ],
    "causal_attention": [
        (_attention, 70, "(key <= token)", "(key < token)"),
        (_attention, 70, "b * c + a * s)", "b * c - a * s)"),
        (_attention, 70, "DIRECTION=-1", "DIRECTION=1"),
        (_attention, 150, "total * rescale + tl.sum", "total + tl.sum"),
        (_attention, 150, "sums * rescale[:, None]", "sums"),
        (_attention, 70, "(H + head // GROUP) * C\n", "(H + head % K) * C\n"),
        (
            _attention,
            70,
            "for head in range(key_head * GROUP, (key_head + 1) * GROUP)",
            "for head in range(key_head * GROUP, key_head * GROUP + 1)",
        ),
        (_attention, 70, "tl.trans(d)) - dot[None, :])", "tl.trans(d)))"),
        (_attention, 70, "(d_q * SCALE)", "d_q"),
        (
            _attention,
            150,
            "    edge = first // FORWARD_KEYS * FORWARD_KEYS",
            "    edge = first // FORWARD_KEYS * FORWARD_KEYS + FORWARD_KEYS",
        ),
        (_attention, 70, "products * (SCALE * LOG2E)", "products * SCALE"),
        (_attention, 7, "cos + token % T", "cos + token"),
        (_window, 70, "key > token - WINDOW", "key >= token - WINDOW"),
        (_window, 70, "tl.minimum(start + KEYS_KEYS - 1 + WINDOW, T)", "tl.minimum(start + KEYS_KEYS, T)"),
        (_capped, 70, " * slope", ""),
        (_capped, 70, "2.0 * SCALE / CAP", "SCALE / CAP"),
        (_partial, 70, "(i % C >= 16)", "(i % C > 16)"),
        (_partial, 70, "second = first + 1", "second = first + 2"),
    ],
    "linear_cross_entropy": [
        (_loss, 3, "total * tl.exp(most - now)", "total"),
        (_loss, 3, "tl.where(v < V, tl.exp(x - now), 0.0)", "tl.exp(x)"),
        (_loss, 3, "2.0 * Z_LOSS * lse", "Z_LOSS * lse"),
        (_loss, 3, "tl.where(v == target, 1.0, 0.0)", "tl.where(v == target - 1, 1.0, 0.0)"),
        (_loss_tail, 3, "gradient.to(logits.dtype.element_ty), mask=v < V)", "gradient.to(logits.dtype.element_ty))"),
        (_capped_loss, 3, "gradient *= 1.0 - turned * turned", "gradient *= 1.0"),
        (_capped_loss, 3, "chosen = CAP * cap(chosen)", "chosen = chosen"),
    ],
    "decode_attention": [
        (_decode, 40, "total * rescale + tl.sum", "total + tl.sum"),
        (_decode, 40, "sums * rescale[:, None] + tl.dot", "sums + tl.dot"),
        (_decode, 40, "scores = tl.where(is_there[None, :], scores, -1e30)", "pass"),
        (_decode, 40, "tl.where(is_first, -pair, pair)", "tl.where(is_first, pair, -pair)"),
        (_decode, 40, "weight = tl.exp2(highest - tl.max(highest, axis=0))", "weight = tl.exp2(highest * 0.0)"),
        (_decode, 40, "key_head * GROUP + g", "key_head + g"),
        (_decode, 40, "first = split * share", "first = split * share + split"),
        (
            _decode,
            40,
            "tl.store(values + (row * K + head - H - K) * C + c, x",
            "tl.store(values + (row * K) * C + c, x",
        ),
        (_decode, 40, "if head < H + K:\n        is_first", "if head < H:\n        is_first"),
        (_decode_window, 50, "tl.maximum(length - WINDOW, 0)", "tl.maximum(length - WINDOW + 1, 0)"),
        (_decode_window, 50, "is_there[:, None] & (c[None, :] < C)", "is_there[:, None]"),
        (_decode_capped, 17, "2.0 * SCALE / CAP", "SCALE / CAP"),
        (_decode_capped, 17, "turns = c < 8", "turns = c < 16"),
        (_decode_capped, 17, "tl.where(is_first, c + 1, c - 1)", "tl.where(is_first, c + 4, c - 4)"),
    ],
    "choose_experts": [
        (_top_one, 5, "scores = scores / tl.sum(scores, axis=0)\n", "pass\n"),
        (_route, 5, '        ranks = tl.where(e == best, -float("inf"), ranks)\n', ""),
        (_route, 5, "found / tl.sum(found, axis=0)", "found"),
        (_route, 5, "token * X + place, found", "token * X + place, 0.5 * found"),
        (_biased, 5, "scores + tl.load(bias + e, mask=e < E, other=0.0)", "scores"),
        (_biased, 5, "tl.where(e == best, scores, 0.0)", "tl.where(e == best, ranks, 0.0)"),
        (_biased, 5, "found = 2.5 * found", "pass"),
    ],
    "expert_linear": [
        (_experts, 40, "(upto <= block) & (e < E)", "(upto < block) & (e < E)"),
        (_experts, 40, "number * ROWS + ", ""),
        (_experts, 40, "tl.where(e == expert, end, 0)", "tl.where(e == expert, end - 1, 0)"),
        (_experts, 40, "expert.to(tl.int64) * N * K", "0 * N * K"),
        (_experts, 40, "ends + e - 1, mask=(e > 0) & (e < E)", "ends + e, mask=(e > 0) & (e < E)"),
        (_experts, 40, "tl.where(e < expert, blocks, 0)", "tl.where(e < expert - 1, blocks, 0)"),
    ],
    "sampling": [
        (_sampling, 15, "(x - most) / temperature", "(x - most)"),
        (_sampling, 15, "top_k.to(tl.float32), COUNTS=True", "top_k.to(tl.float32) + 1.0, COUNTS=True"),
        (_sampling, 15, "least, top_p * total, COUNTS", "least, top_p * 1.0, COUNTS"),
        (_sampling, 15, "top_p * total, COUNTS=False", "total - top_p * total, COUNTS=False"),
        (_sampling, 15, "tl.maximum(tl.minimum(least, 1.0), tl.load(min_ps + row))", "tl.minimum(least, 1.0)"),
        (_sampling, 15, "tl.minimum(least, 1.0)", "least"),
        (_sampling, 15, "tl.load(uniforms + row) * kept", "tl.load(uniforms + row)"),
        (_sampling, 15, "> target) & (weight > 0.0)", "< target) & (weight > 0.0)"),
        (_sampling, 15, "tl.where(v < V, 1.0, 0.0) if COUNTS", "tl.where(weight >= floor, weight, 0.0) if COUNTS"),
        (_sampling, 15, "        step = step >> 2\n", "        step = step >> 3\n"),
    ],
    "weight_only_linear": [
        (_int8, 3, "(words << (24 - 8 * PLACE)) >> 24", "(words >> (8 * PLACE)) & 255"),
        (_int8, 3, "(w * WORD // GROUP)[:, None]", "(w // GROUP)[:, None]"),
        (_int8, 3, "2 * (place % 2) + place // 2", "place"),
        (_int8, 40, "m = tl.program_id(1) * ROWS + ", "m = "),
        (_int8, 3, "sums += tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)[None, :]", "pass"),
        (
            _int8,
            3,
            "    tl.store(y_at, sums.to(y.dtype.element_ty), mask=(m[:, None] < M) & (n[None, :] < N))",
            "    tl.store(y_at, sums.to(y.dtype.element_ty), mask=(m[:, None] < M) & (n[None, :] <= N))",
        ),
        (_int4, 3, "tl.where(code < 8, LOWER, UPPER)", "tl.where(code < 8, UPPER, LOWER)"),
        (_int4, 3, "8 * (code & 7)", "8 * (code & 3)"),
        (_int4, 3, "sums *= tl.load(units + unit_at,", "sums *= tl.load(units + lane,"),
        (_int4, 3, "(num_groups + UNITS) + UNITS) * LANES", "(num_groups + UNITS)) * LANES"),
        (_int4_with_offsets, 3, "& 15) - 8", "& 15) - 7"),
        (_int4_with_offsets, 3, " * scale + offset)", " * scale)"),
        (_int4_with_offsets, 3, "(m[:, None] < M) & (k[None, :] < K)", "m[:, None] < M"),
        (_int4_with_offsets, 20, "panel * num_groups * LANES + lane", "panel * num_words * LANES + lane"),
    ],
    "adamw": [
        (_adamw, 3, "master * shrink - lr", "master - lr"),
        (_adamw, 3, ".to(tl.float32) * grad_scale", ".to(tl.float32)"),
        (_adamw, 3, "tl.sqrt(v * square_scale) + EPS", "tl.sqrt(v) * square_scale + EPS"),
        (_adamw, 3, "(bits + 0x8000) >> 16", "bits >> 16"),
        (_adamw, 3, "(g * g - v) * (1.0 - BETA2)", "(g * g - v) * (1.0 - BETA1)"),
    ],
}
