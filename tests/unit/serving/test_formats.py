"""Bits of a value with its scales, other spellings, and what hardware makes of a format."""

from __future__ import annotations

import pytest

from plenum.serving.catalogue.accelerators import ACCELERATORS
from plenum.serving.format_use import format_use, precision_uses
from plenum.serving.formats import FORMATS, Precision, UnknownFormatError, format_named


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("bf16", 16),
        ("fp8", 8),
        ("nvfp4", 4.5),  # one FP8 scale for 16 values
        ("mxfp4", 4.25),  # one 8-bit scale for 32 values
        ("int4", 4.125),
        ("awq", 4.15625),
        ("int4_g32", 4.5),
        ("q4_0", 4.5),
        ("q4_k", 4.5),
        ("q5_k", 5.5),
        ("q6_k", 6.5625),
        ("q8_0", 8.5),
        ("ternary", 1.6875),
    ],
)
def test_scales_are_counted(name, bits):
    assert FORMATS[name].bits == pytest.approx(bits)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("FP8_E4M3", "fp8"),
        ("fp8_block", "fp8_block"),
        ("int4_wo", "int4"),
        ("fp4", "nvfp4"),
        ("Q4_K_M", "q4_k"),
        ("bfloat16", "bf16"),
        ("w8a8", "int8"),
        ("1.58bit", "ternary"),
    ],
)
def test_spellings(spelling, name):
    assert format_named(spelling).name == name


def test_unknown_format_names_the_nearest():
    with pytest.raises(UnknownFormatError, match="nearest: fp8"):
        format_named("fp9")


@pytest.mark.parametrize(
    ("hardware", "name", "computed", "native", "ratio"),
    [
        ("H100", "fp8", "fp8", True, 2.0),
        ("A100", "fp8", "bf16", False, 1.0),
        ("A100", "int8", "int8", True, 2.0),
        ("H100", "nvfp4", "bf16", False, 1.0),
        ("B200", "nvfp4", "nvfp4", True, 4.0),
        ("B200", "int4", "bf16", False, 1.0),
        ("MI355X", "nvfp4", "bf16", False, 1.0),
        ("MI355X", "mxfp4", "mxfp4", True, 4.0),
        ("B300", "int8", "bf16", False, 1.0),
        ("TPU-v5e", "fp8", "bf16", False, 1.0),
        ("H100", "ternary", "int8", False, 2.0),
    ],
)
def test_what_hardware_does_with_a_format(hardware, name, computed, native, ratio):
    use = format_use(ACCELERATORS[hardware], name)
    assert (use.computed_in, use.native) == (computed, native)
    assert use.compute_ratio == pytest.approx(ratio, rel=0.01)
    assert use.memory_ratio == pytest.approx(FORMATS[name].bits / 16)
    assert use.why


@pytest.mark.parametrize("hardware", ACCELERATORS)
@pytest.mark.parametrize("name", FORMATS)
def test_every_pair_has_an_answer(hardware, name):
    use = format_use(ACCELERATORS[hardware], name)
    assert (use.peak_flops > 0) == bool(use.computed_in)


def test_each_part_of_a_model_has_its_own_answer():
    uses = precision_uses(ACCELERATORS["H100"], Precision(weights="bf16", experts="mxfp4", kv_cache="fp8"))
    assert {part: use.native for part, use in uses.items()} == {"weights": True, "experts": False, "kv_cache": True}
    assert "experts" not in precision_uses(ACCELERATORS["H100"], Precision())
