"""Numbers with a unit, in the unit of their field."""

from __future__ import annotations

import pytest

from llmc.spec.quantities import in_unit_of


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("ttft_p99_ms", "0.5 s", 500), ("ttft_p99_ms", "40ms", 40), ("tpot_p99_ms", "1 min", 60_000),
        ("memory_gib", "80GiB", 80), ("memory_gib", "96 GB", 89.407), ("memory_gib", "1.5TiB", 1536),
        ("memory_gb_s", "3.35 TB/s", 3350), ("inter_node_gb_s", "400 Gbps", 50), ("price_per_hour_usd", "$2.50", 2.5),
        ("price_per_hour_usd", "2.5 USD", 2.5), ("tdp_w", "0.7 kW", 700),
    ],
)  # fmt: skip
def test_a_unit_is_converted_to_that_of_the_field(field: str, text: str, value: float):
    found = in_unit_of(("hardware", field), text)
    assert found is not None
    assert found[0] == pytest.approx(value, rel=1e-5)


def test_a_peak_has_its_unit_from_the_mapping_it_stands_in():
    assert in_unit_of(("hardware", "accelerator", "peak_tflops", "fp8"), "2 PFLOPS") == (2000, "TFLOP/s")


@pytest.mark.parametrize(
    ("field", "text"), [("lr", "3 s"), ("ttft_p99_ms", "3 GB"), ("ttft_p99_ms", "soon"), ("memory_gib", "")]
)
def test_what_has_no_unit_of_the_field_is_not_guessed(field: str, text: str):
    assert in_unit_of((field,), text) is None
