"""Dequantising: every type against the gguf package, on random blocks, bit by bit."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import BY_NAME, blocks

from turnout_gguf.blocks import QUANTISED, dequantise, unpack

READ = ["F32", "F16", "BF16", *QUANTISED]


def test_the_table_of_types_is_that_of_the_gguf_package() -> None:
    theirs = {kind.name: (int(kind), *gguf.GGML_QUANT_SIZES[kind]) for kind in gguf.GGMLQuantizationType}
    only_computed_with = {"Q8_1", "Q8_K"}
    assert {kind.name: (kind.number, kind.elements, kind.nbytes) for kind in BY_NAME.values()} == {
        name: row for name, row in theirs.items() if name not in only_computed_with
    }


@pytest.mark.parametrize("name", READ)
@given(data=st.data())
def test_any_bytes_dequantise_as_ggml_does(name: str, data: st.DataObject) -> None:
    kind = BY_NAME[name]
    rows, per_row = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    raw = np.frombuffer(data.draw(st.binary(min_size=rows * per_row * kind.nbytes, max_size=rows * per_row * kind.nbytes)), np.uint8)
    raw = raw.reshape(rows, -1)
    ours = dequantise(raw, kind)
    with np.errstate(all="ignore"):
        theirs = gguf.dequantize(raw, gguf.GGMLQuantizationType[name]).reshape(ours.shape)
    known = ~np.isnan(theirs)  # the sign of a NaN is nobody's business
    assert ours.dtype == np.float32
    assert np.array_equal(np.isnan(ours), ~known)
    assert np.array_equal(ours[known].view(np.uint32), theirs[known].view(np.uint32))


@pytest.mark.parametrize("name", QUANTISED)
def test_codes_stay_in_the_range_that_the_layout_states(name: str) -> None:
    kind, layout = BY_NAME[name], QUANTISED[name]
    found = unpack(blocks(kind, 64, 4 * kind.elements), kind)
    assert found.codes.dtype == np.int8
    assert found.codes.shape[2] == layout.group
    assert (found.codes.min(), found.codes.max()) == (layout.low, layout.high)
    assert (found.minimums is not None) == layout.has_minimum
