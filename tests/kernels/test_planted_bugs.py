"""Bugs planted in the kernels are caught by the checks that the kernels pass: the checks see what they should."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import test_adamw
import test_bf16_linear
import test_forward_and_backward as checks
import test_serving_kernels
import test_weight_only
from kernel_workshop import Workshop

Check = Callable[[Workshop], None]


def norm(workshop: Workshop) -> None:
    checks.test_add_rms_norm(workshop, "fp32", 100, False)


def norm_with_offset(workshop: Workshop) -> None:
    checks.test_add_rms_norm(workshop, "fp32", 7, True)


def activation(workshop: Workshop) -> None:
    checks.test_gated_linear(workshop, "fp32", "swiglu", 96, False)


def gelu(workshop: Workshop) -> None:
    checks.test_gated_linear(workshop, "fp32", "geglu_tanh", 5, True)


def product(workshop: Workshop) -> None:
    checks.test_linear(workshop, "fp32", 150, 208, 48)


def deep_product(workshop: Workshop) -> None:
    checks.test_linear(workshop, "fp32", 150, 16, 80)


def added_gradients(workshop: Workshop) -> None:
    checks.test_gradient_of_a_weight_is_added_up_in_fp32(workshop, "fp32", 150)


def added_gradients_at_once(workshop: Workshop) -> None:
    checks.test_gradient_of_a_weight_is_added_up_in_fp32(workshop, "bf16", 30)


def product_in_bf16(workshop: Workshop) -> None:
    checks.test_linear(workshop, "bf16", 150, 208, 48)


def attention(workshop: Workshop) -> None:
    checks.test_causal_attention(workshop, "fp32", 150, {})


def window(workshop: Workshop) -> None:
    sizes = {"num_kv_heads": 4, "head_dim": 16, "window": 20}
    checks.test_causal_attention(workshop, "fp32", 150, sizes)


def loss(workshop: Workshop) -> None:
    checks.test_linear_cross_entropy(workshop, "fp32", 150, {"z_loss": 1e-2})


def adamw(workshop: Workshop) -> None:
    with pytest.MonkeyPatch.context() as patch:
        test_adamw.test_steps_are_those_of_adamw_in_fp32(workshop, patch, "bf16", True, (64, 37))


def eight_bits(workshop: Workshop) -> None:
    test_weight_only.test_products_agree_with_float64(workshop, "int8", "bf16")


def four_bits(workshop: Workshop) -> None:
    test_weight_only.test_products_agree_with_float64(workshop, "int4-with-offsets", "fp32")


def four_bits_without_offsets(workshop: Workshop) -> None:
    test_weight_only.test_products_agree_with_float64(workshop, "int4", "fp32")


def four_bits_without_avx512(workshop: Workshop) -> None:
    with pytest.MonkeyPatch.context() as patch:
        test_weight_only.test_products_without_avx512_agree_with_float64(workshop, patch, "int4")


def four_bits_in_bf16(workshop: Workshop) -> None:
    test_weight_only.test_products_agree_with_float64(workshop, "int4", "bf16")


def eight_by_eight_bits(workshop: Workshop) -> None:
    test_weight_only.test_products_agree_with_float64(workshop, "int8-by-int8", "bf16")


def four_by_eight_bits(workshop: Workshop) -> None:
    test_weight_only.test_products_agree_with_float64(workshop, "int4-with-offsets-by-int8", "bf16")


def four_by_eight_bits_without_offsets(workshop: Workshop) -> None:
    test_weight_only.test_products_agree_with_float64(workshop, "int4-by-int8", "bf16")


def weights_in_bf16(workshop: Workshop) -> None:
    test_bf16_linear.test_products_agree_with_float64(workshop, None)


def bits_of_weights(workshop: Workshop) -> None:
    test_bf16_linear.test_every_bit_is_kept(workshop, None)


def weights_in_bf16_without_vectors(workshop: Workshop) -> None:
    test_bf16_linear.test_products_agree_with_float64(workshop, test_bf16_linear.without_vectors_of_bytes)


def many_inputs(workshop: Workshop) -> None:
    test_bf16_linear.test_many_inputs_come_in_parts(workshop)


def four_bits_of_many_inputs(workshop: Workshop) -> None:
    test_weight_only.test_many_inputs_come_in_parts(workshop, "int4", "fp32")


def many_rows(workshop: Workshop) -> None:
    test_bf16_linear.test_many_rows_come_in_parts(workshop)


def places_of_rows(workshop: Workshop) -> None:
    test_bf16_linear.test_numbers_of_a_row_do_not_depend_on_where_it_stands(workshop)


def answers(workshop: Workshop) -> None:
    test_serving_kernels.test_attention_of_running_answers(workshop, "fp32", "grouped")


def answers_in_a_window(workshop: Workshop) -> None:
    test_serving_kernels.test_attention_of_running_answers(workshop, "fp32", "wide-heads-in-a-window")


def prompts(workshop: Workshop) -> None:
    test_serving_kernels.test_attention_of_prompts(workshop, "fp32", "grouped")


def prompts_in_bf16(workshop: Workshop) -> None:
    test_serving_kernels.test_attention_of_prompts(workshop, "bf16", "one-key-head")


def prompts_in_a_window(workshop: Workshop) -> None:
    test_serving_kernels.test_attention_of_prompts(workshop, "fp32", "wide-heads-in-a-window")


def prompts_from_int8(workshop: Workshop) -> None:
    test_serving_kernels.test_attention_of_prompts(workshop, "fp32", "int8")


def answers_from_int8(workshop: Workshop) -> None:
    test_serving_kernels.test_attention_of_running_answers(workshop, "fp32", "int8")


BUGS: list[tuple[Check, str, str]] = [
    (norm, "if (x) v += load(x + at + j, lanes);", ""),
    (norm, "sum(squares) / D + EPS", "sum(squares) / (D / 16 * 16) + EPS"),
    (norm, "std::sqrt(sum(squares) / D + EPS)", "(std::sqrt(sum(squares) / D) + 100 * EPS)"),
    (norm, "if (d_sums) d += load(d_sums + at + j, lanes);", ""),
    (norm, "- load(normed + at + j, lanes) * mean", ""),
    (norm, "store(share + j, load(share + j, lanes) + v * d, lanes)", "store(share + j, v * d, lanes)"),
    (norm, "store(h + at + j, v * scale(weight + j, lanes), lanes)", "store(h + at + j, v * scale(weight + j, lanes))"),
    (norm_with_offset, "1.0f + load(weight, lanes)", "load(weight, lanes)"),
    (activation, "s + x * s * (1.0f - s)", "s + x * s"),
    (activation, "*up = gate + F;", "*up = gate + F - 1;"),
    (activation, "store(d_up + j, d * a.value, lanes)", "store(d_up + j, d * a.slope, lanes)"),
    (activation, "store(active + row * F + j, a.value * u, lanes);", ""),
    (gelu, "0.21406444f", "0.07135481f"),
    (product, "parts = parts_of(M, per_part)", "parts = M / per_part"),
    (product, "w + column * K + k, K, packed", "w + k, K, packed"),
    (product, "w + k * K + column, K, packed", "w + column, K, packed"),
    (product, "(panel * words + m / PER) * PANEL, PANEL);", "panel * words * PANEL, PANEL);"),
    (product, "packed + (j * words + r * ROWS)", "packed + r * ROWS"),
    (product, "sum + i * ld, ld, m > 0", "sum + i * ld, ld, false"),
    (product, "d_y + m * N + row, N, left", "d_y + row, N, left"),
    (
        product,
        "_mm512_shuffle_i32x4(b[i + j], b[i + 4 + j], 0xdd)",
        "_mm512_shuffle_i32x4(b[i + j], b[i + 4 + j], 0x88)",
    ),
    (added_gradients, "add ? load(to + i * ld_to + j) + v : v", "v"),
    (added_gradients_at_once, "K + panel * PANEL, K, add)", "K + panel * PANEL, K, false)"),
    (deep_product, "sum, PANEL, k > 0", "sum, PANEL, false"),
    (deep_product, "(const Word*)(a + first * K + k)", "(const Word*)(a + first * K)"),
    (product_in_bf16, "if (r + 1 < rows) memcpy(&second", "if (r + 2 < rows) memcpy(&second"),
    (attention, "keys > query", "keys >= query"),
    (attention, "b * cos + a * sin", "b * cos - a * sin"),
    (attention, "at.sin + token * (C / 2) + j, lanes) * direction", "at.sin + token * (C / 2) + j, lanes)"),
    (attention, "load(total) * rescale + sums(totals)", "load(total) + sums(totals)"),
    (attention, "load(weighed + i * C + c) * rescale[i]", "load(weighed + i * C + c)"),
    (
        attention,
        "head = key_head * GROUP; head < (key_head + 1) * GROUP",
        "head = key_head * GROUP; head < key_head * GROUP + 1",
    ),
    (attention, "- row_dot[i + r]", ""),
    (
        attention,
        "d_query + (int64_t)i * QKV, angles, first + i, SCALE",
        "d_query + (int64_t)i * QKV, angles, first + i, 1.0f",
    ),
    (attention, "d_query + (int64_t)i * QKV, angles, first + i", "d_query + (int64_t)i * QKV, angles, i"),
    (attention, "std::fill(d_values.begin(), d_values.end(), 0.0f);", ""),
    (window, "keys <= query - WINDOW", "keys < query - WINDOW"),
    (window, "first - WINDOW + 1) / 16 * 16", "first - WINDOW + 17) / 16 * 16"),
    (loss, "2.0f * Z_LOSS * lse", "Z_LOSS * lse"),
    (loss, "std::exp(target - lse) * factor - 1.0f", "std::exp(target - lse) * factor"),
    (
        loss,
        "for (int j = V / 16 * 16; j < V; j++) result += std::exp",
        "for (int j = V; j < V; j++) result += std::exp",
    ),
    (adamw, "* shrink -", "-"),
    (adamw, "grads + at, lanes) * grad_scale", "grads + at, lanes)"),
    (adamw, "sqrt(square) * root_scale + EPS", "sqrt(square) * square_scale + EPS"),
    (adamw, "(bits + 0x8000) >> 16", "bits >> 16"),
    (answers, "std::fill(scores[i] + (end - begin), scores[i] + CHUNK, -1e30f);", ""),
    (answers, "std::exp(part(chunk)->largest - most)", "1.0f"),
    (answers, "total += share * part(chunk)->total", "total += part(chunk)->total"),
    (
        answers,
        "first = values + row(at) * ROW",
        "first = values + at * ROW",
    ),
    (answers, "b * c + a * s", "b * c - a * s"),
    (answers, "key + K * C, C * sizeof", "key + C, C * sizeof"),
    (answers, "SCALE, queries + i * C", "1.0f, queries + i * C"),
    (answers, "std::min(chunk * CHUNK + CHUNK, lengths[b])", "std::min(chunk * CHUNK + CHUNK, capacity)"),
    (answers, "load(part(chunk)->weighed + 16 * c) * share", "load(part(chunk)->weighed + 16 * c)"),
    (answers_from_int8, "(bits + 0xffff) >> 16", "bits >> 16"),
    (answers_from_int8, "max(load(x + j), -load(x + j))", "load(x + j)"),
    (answers_from_int8, "key_scales + at)", "key_scales + at / K * K)"),
    (answers_from_int8, "sums(products) * scales", "sums(products)"),
    (answers_from_int8, "to_float(value_scales[row(at) * K])", "to_float(value_scales[row(at)])"),
    (answers_from_int8, "splat(weights[i][at - begin] * scale)", "splat(weights[i][at - begin])"),
    (answers_from_int8, "key + K * C + j", "key + C + j"),
    (prompts_from_int8, "scales[row * K]", "scales[row]"),
    (prompts_from_int8, "key.copy(rows[j]", "key.copy(j"),
    (prompts_from_int8, "written[t] * K + k", "written[t] * K"),
    (answers_in_a_window, "lengths[b] - 20", "lengths[b] - 19"),
    (prompts, "keys > query", "keys >= query"),
    (prompts, "read + p * capacity", "read"),
    (prompts, "value + rows[j] * ROW", "value + j * ROW"),
    (prompts, "std::min(KEYS, last + 1 - at)", "std::min(KEYS, last - at)"),
    (prompts, "values, weighed, C, true", "values, weighed, C, false"),
    (prompts, "keys + written[t] * ROW", "keys + t * ROW"),
    (prompts, "SCALE, &queries", "1.0f, &queries"),
    (prompts, "std::min(first + i, last), last", "std::min(first + i, last) + 1, last"),
    (prompts, "+ 1 - key + 15) / 16", "+ 1 - key) / 16"),
    (prompts, "last = (int)positions[block.end - 1]", "last = (int)positions[block.begin]"),
    (
        prompts_in_bf16,
        "std::fill(copied.data() + seen * C, copied.data() + count * C, Number{});",
        "std::fill(copied.data() + seen * C, copied.data() + count * C, Number{0x7fc0});",
    ),
    (prompts_in_a_window, "first - WINDOW + 1) / 16 * 16", "first - WINDOW + 17) / 16 * 16"),
    (eight_bits, "words << (24 - SHIFT)) >> 24", "words << (24 - SHIFT)) >> 23"),
    (eight_bits, "UNIT = 0x1p-24f", "UNIT = 0x1p-23f"),
    (eight_bits, "w.unit() * UNIT * in_units[i]", "UNIT * in_units[i]"),
    (eight_bits, "number(byte(2))", "number(byte(3))"),
    (eight_bits, "_mm512_set1_epi32(0xff000000)", "_mm512_set1_epi32(0x7f000000)"),
    (eight_bits, "at * WORD + 2 * s", "at * WORD"),
    (eight_bits, "(k + GROUP - 1) / GROUP", "k / GROUP"),
    (four_bits, "S % 2 * 16 + S / 2 * BITS", "S * BITS"),
    (four_bits, "words >> SHIFT), _mm512_load_ps", "words >> (SHIFT + 1)), _mm512_load_ps"),
    (four_bits, "total[i] += offset * sums_x[i * w.groups + g]", ""),
    (four_bits, "sums_x += ROWS * w.groups", "sums_x += ROWS"),
    (four_bits, "code<s>(panel.codes[at]) + offset", "code<s>(panel.codes[at])"),
    (four_bits, "load(scales + g * 16)", "load(scales)"),
    (
        four_bits,
        "memcpy(&padded[i * ldx], x + i * k, k * sizeof(Number))",
        "memcpy(&padded[i * ldx], x, k * sizeof(Number))",
    ),
    (four_bits, "if (count >= 16) return store(y, v);", "return store(y, v);"),
    (four_bits, "begin + PER_SUM < w.words ? begin + PER_SUM : w.words", "begin + PER_SUM"),
    (four_bits, "w.scale(begin / PER_GROUP)", "w.scale(begin / PER_SUM / 2)"),
    (four_bits, "load(sums + i * LD + 16 * p) + added[p]", "load(sums + i * LD + 16 * p)"),
    (four_bits_of_many_inputs, "g = at / PER_GROUP", "g = (at - begin) / PER_GROUP"),
    (four_bits_of_many_inputs, "sums, LD, begin > 0", "sums, LD, false"),
    (four_bits_without_offsets, "total[i] += w.unit() * in_units[i]", "total[i] += in_units[i]"),
    (four_bits_without_offsets, "panel.scale(g) * panel.unit()", "panel.scale(g)"),
    (four_bits_without_offsets, "load(scales + (2 + g) * 16)", "load(scales + g * 16)"),
    (four_bits_without_avx512, "bytes << (24 - SHIFT / 8 * 8)", "bytes << (24 - SHIFT)"),
    (four_bits_without_avx512, "words >> SHIFT % 8 &", "words &"),
    (four_bits_in_bf16, "x + i * ldx + at * WORD + 2", "x + at * WORD + 2"),
    (four_bits_in_bf16, "s < CHAINS; s++) sums[i] += partial[i][s]", "s < CHAINS - 1; s++) sums[i] += partial[i][s]"),
    (four_bits_in_bf16, "_mm512_srli_epi32(words, 4 * s)", "_mm512_srli_epi32(words, 3 * s)"),
    (four_bits_in_bf16, "y + i * n + 16 * p, load(sums", "y + i * n, load(sums"),
    (eight_by_eight_bits, "max(load(numbers + j), -load(numbers + j))", "load(numbers + j)"),
    (eight_by_eight_bits, "(bits + 0xffff) >> 16", "bits >> 16"),
    (eight_by_eight_bits, "row.starts[s] = -ZERO * sum", "row.starts[s] = ZERO * sum"),
    (eight_by_eight_bits, "words ^ 0x80808080", "words"),
    (eight_by_eight_bits, "order = { 0, 2, 1, 3,", "order = { 0, 1, 2, 3,"),
    (eight_by_eight_bits, "(scale * x.steps[at])", "(scale * x.steps[s])"),
    (eight_by_eight_bits, "left < 16 ? left : 16", "left < 16 ? 4 : 16"),
    (eight_by_eight_bits, "s / (GROUP / INPUTS)", "s / GROUP"),
    (eight_by_eight_bits, "w.codes[p * w.words + at]", "w.codes[at]"),
    (eight_by_eight_bits, "num_panels, i, p), i += 4", "num_panels, i, p), i += 5"),
    (eight_by_eight_bits, "all_rows(Lanes<6>{}, Lanes<2>{}, 2 * p)", "all_rows(Lanes<6>{}, Lanes<1>{}, 2 * p)"),
    (four_by_eight_bits, "words >> 4 * P &", "words >> 4 &"),
    (four_by_eight_bits_without_offsets, "total[r][j] *= w.panel(p + j).unit()", "total[r][j] *= w.panel(p).unit()"),
    (four_by_eight_bits_without_offsets, "ZERO = 128", "ZERO = 127"),
    (four_by_eight_bits, "* PARTS + each]", "* PARTS]"),
    (four_by_eight_bits, "total[i][p] += offset * x.sums[at];", ""),
    (four_by_eight_bits, "row.sums[s] = step * (float)sum", "row.sums[s] = (float)sum"),
    (four_by_eight_bits, "x + i * k + s * INPUTS", "x + i * k"),
    (weights_in_bf16, "x + i * ldx + at * WORD", "x + at * WORD"),
    (weights_in_bf16, "total[i] += sums[i] + load(rest[i])", "total[i] = sums[i] + load(rest[i])"),
    (weights_in_bf16, "panel = w.panel(p);", "panel = w.panel(0);"),
    (weights_in_bf16, "units + p * words", "units + p * (words - 1)"),
    (weights_in_bf16, "std::min(per_part, rows - i)", "per_part - 1"),
    (many_rows, "y + i * n + column", "y + column"),
    (many_inputs, "(x + begin * WORD), ldx", "(x + 0), ldx"),
    (many_inputs, "one.column - begin * WORD", "one.column"),
    (many_inputs, "std::min(begin + depth, w.words)", "begin + depth"),
    (many_inputs, "y + i * n + 16 * p, load(sums + i * LD", "y + i * n + 16 * p, load(sums + i * 16"),
    (weights_in_bf16, "_mm512_unpackhi_epi8", "_mm512_unpacklo_epi8"),
    (weights_in_bf16, "_mm512_srli_epi16(both, 4)", "_mm512_srli_epi16(both, 3)"),
    (bits_of_weights, "bounds + p, words", "bounds, words"),
    (bits_of_weights, "to_float(x[i * ldx + one.column])", "to_float(x[one.column])"),
    (bits_of_weights, "rest[i][one.lane] +=", "rest[i][one.lane] ="),
    (bits_of_weights, "one.lane) + column % 2", "one.lane)"),
    (bits_of_weights, "j / 4 % 2, place", "j / 2 % 2, place"),
    (bits_of_weights, "if (escapes[e].lane == lane)", ""),
    (weights_in_bf16_without_vectors, "half == 0 ? both & 15 : both >> 4", "half == 1 ? both & 15 : both >> 4"),
    (
        places_of_rows,
        "for (int s = 0; s < 4; s++) {",
        "for (int t = 0; t < 4; t++) {\n        const int s = ROWS < 3 ? t : 3 - t;",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("check", "right", "wrong"), BUGS, ids=[f"{c.__name__}-{r[:40]}" for c, r, _ in BUGS])
def test_planted_bug_is_caught(workshop: Workshop, check: Check, right: str, wrong: str) -> None:
    make = workshop.make

    def make_wrong(view, *, edit=None):
        def plant(text: str) -> str:
            text = text if edit is None else edit(text)
            assert right in text, "the kernel has changed: plant another bug"
            return text.replace(right, wrong, 1)

        return make(view, edit=plant)

    workshop.make = make_wrong
    with pytest.raises(AssertionError, match=r"error|wrote outside|not finite|assert "):
        check(workshop)
