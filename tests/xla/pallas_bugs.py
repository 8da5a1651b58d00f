"""Bugs to plant in Pallas kernels: (kernel, rows, what stands there, what to put in its place)."""

from __future__ import annotations

import pallas_samples as samples

from llmc.compiler.kernels.kernel import Kernel

Bug = tuple[Kernel, int, str, str]

_rms = samples.add_norm("fp32", hidden_size=100)
_rms_bf16 = samples.add_norm("bf16", hidden_size=100)
_offset = samples.add_norm("fp32", hidden_size=7, unit_offset=True)
_layer = samples.add_norm("fp32", hidden_size=100, is_layer=True, has_bias=True)
_attention = samples.causal_attention("fp32", longest=128)
_window = samples.causal_attention("fp32", longest=128, num_heads=2, num_kv_heads=1, head_dim=128, window=140)
_capped = samples.causal_attention("fp32", num_heads=2, num_kv_heads=1, softcap=3.0)
_decode = samples.decode_attention("fp32", longest=48)
_decode_window = samples.decode_attention("fp32", longest=32, window=40)

BUGS: list[Bug] = [
    (_rms, 5, "        total += x_ref[...].astype(jnp.float32)\n", "        pass\n"),
    (_rms, 5, "jax.lax.rsqrt(jnp.mean(v * v, axis=-1, keepdims=True) + EPS)", "jax.lax.rsqrt(jnp.mean(v * v) + EPS)"),
    (_rms, 700, "    if last < TOKENS:", "    if last > TOKENS:"),
    (_rms, 700, "(block < pl.num_programs(1) - 1)", "(block < pl.num_programs(1) - 2)"),
    (_rms, 700, "d_weight_ref[...] += jnp.sum", "d_weight_ref[...] = jnp.sum"),
    (_rms, 700, "lambda b, t: (b, 0, 0))", "lambda b, t: (0, 0, 0))"),
    (_rms, 5, "(g - n * jnp.mean(g * n, axis=-1, keepdims=True)) * scale", "g * scale"),
    (_rms, 5, "d_v += d_total_ref", "d_v -= d_total_ref"),
    (
        _rms_bf16,
        5,
        "    return v * scale, scale\n",
        "    return (v * scale).astype(jnp.float8_e4m3fn).astype(jnp.float32), scale\n",
    ),
    (_offset, 5, "return 1.0 + weight_ref", "return weight_ref"),
    (_layer, 5, "(g - jnp.mean(g, axis=-1, keepdims=True) - n", "(g - n"),
    (_layer, 700, "        d_y = jnp.where(is_there, d_y, 0.0)\n", ""),
    (_attention, 150, "return key > token\n", "return key >= token\n"),
    (
        _attention,
        150,
        "return (start + keys - 1 > first) | (first + queries > T)",
        "return start + keys - 1 > first + queries",
    ),
    (_attention, 300, "total_ref[:, :1] * rescale", "total_ref[:, :1]"),
    (_attention, 300, "sums_ref[...] * rescale", "sums_ref[...]"),
    (_attention, 150, "            v = up_to(T, v, start)\n            scores", "            scores"),
    (_attention, 150, "            q, d = up_to(T, q, first), up_to(T, d, first)\n", "            pass\n"),
    (_attention, 150, "h // GROUP, jnp.minimum(begin + step, end)  #", "h % K, jnp.minimum(begin + step, end)  #"),
    (_attention, 150, "h * GROUP + step // num_blocks", "h * GROUP"),
    (_attention, 150, "(1, 1)) - row_dot_ref[...]\n", "(1, 1))\n"),
    (_attention, 150, "(d_q_sum[...] * SCALE)", "d_q_sum[...]"),
    (_attention, 300, "jnp.minimum(begin + step % num_blocks, end)", "jnp.minimum(step % num_blocks, end)"),
    (_window, 300, "(key <= token - WINDOW)", "(key < token - WINDOW)"),
    (_window, 400, "jnp.maximum(first - WINDOW + 1, 0) // keys", "jnp.maximum(first - WINDOW + 129, 0) // keys"),
    (_window, 400, "start + keys - 1 + WINDOW - 1", "start + keys - 1"),
    (_capped, 150, " * slope", ""),
    (_capped, 150, "2.0 * SCALE / CAP", "SCALE / CAP"),
    (
        _decode,
        70,
        "scores = jnp.where(key < length, scores, NOTHING)",
        "scores = jnp.where(key <= length, scores, NOTHING)",
    ),
    (_decode, 70, "        v = jnp.where(row < length, v, jnp.zeros_like(v))  #", "        #"),
    (_decode, 130, "total = total * rescale", "total = total"),
    (_decode, 130, "return now, total, weighted * rescale", "return now, total, weighted"),
    (
        _decode,
        130,
        "start(after, jnp.where(is_last, fetches(lengths_ref[after])[0], fetch + 1), 1 - buffer)",
        "start(after, fetch + 1, 1 - buffer)",
    ),
    (_decode, 130, "turn_ref[0] = (turn + end - begin) % 2", "turn_ref[0] = turn"),
    (_decode, 130, "fetch + 1), 1 - buffer)", "fetch + 1), buffer)"),
    (_decode, 130, "tables_ref[sequence, fetch * PAGES + page]", "tables_ref[sequence, page]"),
    (_decode_window, 130, "jnp.maximum(length - WINDOW, 0) // KEYS", "jnp.maximum(length - WINDOW, 0) // KEYS + 1"),
    (_decode_window, 130, "(key >= length - WINDOW)", "(key > length - WINDOW)"),
]
