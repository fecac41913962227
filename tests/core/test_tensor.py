"""Tensors cross DLPack without a copy in every type it knows, and `host_value` reads what callers give."""

from __future__ import annotations

from array import array
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnxruntime import OrtValue

from turnout import Tensor
from turnout.errors import InvalidInput
from turnout.tensor import host_value

NUMPYS = [np.float16, np.float32, np.float64, np.bool_]
NUMPYS += [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]
# by their numbers in onnx.proto, TensorProto.DataType
OTHERS = {
    16: ml_dtypes.bfloat16,
    17: ml_dtypes.float8_e4m3fn,
    18: ml_dtypes.float8_e4m3fnuz,
    19: ml_dtypes.float8_e5m2,
    20: ml_dtypes.float8_e5m2fnuz,
    24: ml_dtypes.float8_e8m0fnu,
}
CROSSING = [np.dtype(kind) for kind in (*NUMPYS, *OTHERS.values())]
PACKED = [np.dtype(kind) for kind in (ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.int2, ml_dtypes.uint2, ml_dtypes.float4_e2m1fn)]
F32 = np.dtype(np.float32)
STRING = np.dtype(object)


# the peer at the other end of the exchange
knows_dlpack = pytest.mark.skipif(not hasattr(OrtValue, "from_dlpack"), reason="this ONNX Runtime's OrtValue has no DLPack yet")


def made_by_runtime(number: int, bits: np.ndarray[Any, Any]) -> Any:
    """A value of ONNX Runtime's own, over these bits."""
    return OrtValue.ortvalue_from_numpy_with_onnx_type(bits, number)


@knows_dlpack
@pytest.mark.parametrize("dtype", CROSSING, ids=str)
def test_out_through_dlpack_without_a_copy(dtype: np.dtype[Any]) -> None:
    given_array = np.arange(6).astype(dtype).reshape(2, 3)
    tensor = Tensor(given_array)
    value = OrtValue.from_dlpack(tensor)
    assert tensor.__dlpack_device__() == (1, 0)
    assert value.data_ptr() == given_array.ctypes.data
    assert list(value.shape()) == [2, 3]
    numbers = {np.dtype(kind): number for number, kind in OTHERS.items()}
    if dtype in numbers:
        assert value.element_type() == numbers[dtype]
    else:
        assert np.array_equal(value.numpy(), given_array)


@knows_dlpack
@pytest.mark.parametrize(("number", "kind"), OTHERS.items(), ids=str)
def test_in_through_dlpack_without_a_copy(number: int, kind: Any) -> None:
    bits = np.arange(6, dtype=np.uint16 if number == 16 else np.uint8).reshape(3, 2)
    value = made_by_runtime(number, bits)
    tensor = Tensor(value)
    assert (tensor.dtype, tensor.shape, tensor.device) == (np.dtype(kind), (3, 2), "cpu:0")
    assert tensor.numpy().ctypes.data == value.data_ptr()
    assert np.array_equal(tensor.numpy().view(bits.dtype), bits)
    read = host_value(value, np.dtype(kind), "x")
    assert (read.dtype, read.ctypes.data) == (np.dtype(kind), value.data_ptr())


@given(array=st.sampled_from(CROSSING).flatmap(lambda dtype: hnp.arrays(np.uint8, (3, 4, dtype.itemsize)).map(lambda a: (a, dtype))))
def test_there_and_back(array: tuple[np.ndarray[Any, Any], np.dtype[Any]]) -> None:
    """Any bits, in any type, strided or not, come back as they went: the same memory."""
    bytes_, dtype = array
    if dtype.kind == "b":
        bytes_ = bytes_ & 1
    whole = bytes_.reshape(-1).view(dtype).reshape(3, 4)
    for view in (whole, whole.T, whole[::2, 1:], whole[:0], whole[1, 2]):
        back = Tensor(OnlyDLPack(Tensor(np.asarray(view)))).numpy()
        assert (back.dtype, back.shape, back.strides) == (dtype, view.shape, np.asarray(view).strides)
        assert back.tobytes() == view.tobytes()
        assert not back.size or np.ndim(view) == 0 or np.shares_memory(back, whole)


class OnlyDLPack:
    """What another library's array shows of itself."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __dlpack__(self, **asked: Any) -> Any:
        return self._inner.__dlpack__(**asked)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._inner.__dlpack_device__()


class OldDLPack(OnlyDLPack):
    """A library from before DLPack 1.0: it takes no argument but a stream."""

    def __dlpack__(self, stream: Any = None) -> Any:  # type: ignore[override]
        return self._inner.__dlpack__()


class OnlyArray:
    def __init__(self, inner: np.ndarray[Any, Any]) -> None:
        self._inner = inner

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return self._inner if dtype is None else self._inner.astype(dtype)


class OnlyInterface:
    def __init__(self, inner: np.ndarray[Any, Any]) -> None:
        self.__array_interface__ = inner.__array_interface__
        self._inner = inner


def through_dlpack(array: np.ndarray[Any, Any]) -> OnlyDLPack:
    return OnlyDLPack(Tensor(array))


@pytest.mark.parametrize("dtype", [F32, np.dtype(ml_dtypes.bfloat16), np.dtype(ml_dtypes.float8_e5m2)], ids=str)
@pytest.mark.parametrize("wrapper", [Tensor, OnlyArray, through_dlpack])
def test_read_only_memory_is_read_in_place(wrapper: Any, dtype: np.dtype[Any]) -> None:
    """Weights in a mapped file are such memory."""
    given_array = np.arange(4).astype(dtype)
    given_array.flags.writeable = False
    read = host_value(wrapper(given_array), dtype, "x")
    assert read.dtype == dtype
    assert np.shares_memory(read, given_array)
    assert not read.flags.writeable


@pytest.mark.parametrize("wrapper", [OnlyDLPack, OldDLPack, OnlyArray, OnlyInterface, memoryview, Tensor, lambda a: a])
def test_memory_of_others_is_not_copied(wrapper: Any) -> None:
    given_array = np.arange(12, dtype=np.float32).reshape(3, 4)
    read = host_value(wrapper(given_array), F32, "x")
    assert isinstance(read, np.ndarray)
    assert np.shares_memory(read, given_array)
    assert np.array_equal(read, given_array)


def test_buffers_of_the_standard_library() -> None:
    numbers = array("f", [1, 2, 3])
    read = host_value(numbers, F32, "x")
    numbers[0] = 7
    assert read.tolist() == [7, 2, 3]
    assert host_value(b"\x01\x02", np.dtype(np.uint8), "x").tolist() == [1, 2]
    assert host_value(bytearray(b"\x03"), np.dtype(np.uint8), "x").tolist() == [3]


def test_torch_tensors_share_memory() -> None:
    torch = pytest.importorskip("torch")
    for dtype in (torch.float32, torch.bfloat16, torch.int64):
        given_tensor = torch.arange(6).reshape(2, 3).to(dtype)
        read = host_value(given_tensor, None, "x")
        assert read.ctypes.data == given_tensor.data_ptr()
        back = torch.from_dlpack(Tensor(read))
        assert (back.dtype, back.data_ptr()) == (dtype, given_tensor.data_ptr())
    assert host_value(torch.ones(2, requires_grad=True), F32, "x").tolist() == [1, 1]


class FakeCuda:
    """An array on a device that is not the host, as far as its two methods tell."""

    dtype, shape = np.dtype(np.float32), (2,)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 3

    def __dlpack__(self, **asked: Any) -> Any:
        raise BufferError("not for the host")

    def get(self) -> np.ndarray[Any, Any]:
        return np.array([1, 2], np.float32)


def test_other_devices_are_named_and_copied_from() -> None:
    tensor = Tensor(FakeCuda())
    assert (tensor.device, tensor.dtype, tensor.shape) == ("cuda:3", F32, (2,))
    assert tensor.__dlpack_device__() == (2, 3)
    assert tensor.numpy().tolist() == [1, 2]
    assert host_value(FakeCuda(), F32, "x").tolist() == [1, 2]
    assert repr(tensor) == "Tensor(float32[2] on cuda:3)"


@pytest.mark.parametrize("dtype", PACKED, ids=str)
def test_packed_types_do_not_cross_dlpack(dtype: np.dtype[Any]) -> None:
    tensor = Tensor(np.zeros(4, dtype))
    assert tensor.dtype == dtype
    with pytest.raises((BufferError, TypeError)):
        tensor.__dlpack__()


def test_a_tensor_is_an_array_to_numpy() -> None:
    given_array = np.arange(3, dtype=np.int32)
    assert np.shares_memory(np.asarray(Tensor(given_array)), given_array)
    assert np.asarray(Tensor(given_array), np.float64).tolist() == [0, 1, 2]
    assert not np.shares_memory(np.array(Tensor(given_array)), given_array)


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=3)))
def test_lists_become_the_inputs_type(values: np.ndarray[Any, Any]) -> None:
    read = host_value(values.tolist(), F32, "x")
    assert read.dtype == F32
    assert np.array_equal(read, values, equal_nan=True)


@pytest.mark.parametrize("dtype", [*CROSSING, *PACKED], ids=str)
def test_numbers_become_the_inputs_type(dtype: np.dtype[Any]) -> None:
    values = [[1, 2], [2, 1]] if dtype.name == "float8_e8m0fnu" else [[0, 1], [1, 0]]  # which has no zero
    read = host_value(values, dtype, "x")
    assert (read.dtype, read.shape) == (dtype, (2, 2))
    assert read.astype(np.float64).tolist() == values
    assert host_value(1, dtype, "x").shape == ()


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ([300], np.uint8),
        ([-1], np.uint8),
        ([2**31], np.int32),
        ([1.5], np.int64),
        ([float("nan")], np.int32),
        ([2], np.bool_),
        ([8], ml_dtypes.int4),
        ([1e39], np.float32),
        ([70000], np.float16),
        ([1 + 2j], np.float32),
        ([0], ml_dtypes.float8_e8m0fnu),
        (["1.5"], np.float32),
        ("1", np.int64),
        ([None], np.float32),
        ([1, None], np.float32),
        ([[1, 2], [3]], np.float32),
        ([[1, 2], [3]], None),
        ({"a": 1}, np.float32),
        ({1, 2}, np.float32),
        (NotImplemented, np.float32),
        (2**70, np.int64),
        ([["a"], ["b", "c"]], object),
        (["a", 1], object),
        ([None], object),
    ],
    ids=str,
)
def test_what_an_input_cannot_hold_is_refused(value: Any, dtype: Any) -> None:
    """Never another number in silence."""
    with pytest.raises(InvalidInput, match="'pixels'") as caught:
        host_value(value, None if dtype is None else np.dtype(dtype), "pixels")
    assert caught.value.hint


@pytest.mark.parametrize(("value", "kept"), [([0.1], [0.1]), ([2**24 + 1], [2**24]), ([float("inf")], [float("inf")]), ([True], [1.0])])
def test_rounding_is_no_reason_to_refuse(value: Any, kept: Any) -> None:
    assert host_value(value, F32, "x").tolist() == np.array(kept, np.float32).tolist()


def test_floats_that_are_whole_are_integers() -> None:
    assert host_value([2.0, -3.0], np.dtype(np.int32), "x").tolist() == [2, -3]
    assert host_value([], np.dtype(np.int64), "x").dtype == np.int64


def test_strings() -> None:
    read = host_value([["a", "ü"], ["", "字"]], STRING, "x")
    assert (read.dtype, read.tolist()) == (STRING, [["a", "ü"], ["", "字"]])
    assert host_value("whole", STRING, "x").item() == "whole"
    assert host_value([], STRING, "x").shape == (0,)
    for text in ([b"\xc3\xbc", "b"], np.array(["ü", "b"]), np.array(["ü".encode(), b"b"]), np.array(["ü", b"b"], object)):
        assert host_value(text, STRING, "x").tolist() == ["ü", "b"]
    given_array = np.array(["a", "b"], object)
    assert host_value(given_array, STRING, "x") is given_array
    with pytest.raises(InvalidInput, match="'x'"):
        host_value([b"\xff"], STRING, "x")


def test_foreign_byte_order_is_turned() -> None:
    other = np.array([1, 2], np.dtype(np.float32).newbyteorder())
    read = host_value(other, F32, "x")
    assert read.dtype.isnative
    assert read.tolist() == [1, 2]


def test_sequences_and_optionals() -> None:
    one, two = np.ones(2, np.float32), OnlyDLPack(np.zeros(3, np.float32))
    read = host_value((one, two, [1, 2]), F32, "xs", "sequence")
    assert [item.tolist() for item in read] == [[1, 1], [0, 0, 0], [1, 2]]
    assert read[0] is one
    assert host_value([], F32, "xs", "sequence") == []
    assert host_value(None, F32, "maybe", "optional") is None
    for wrong in (one, "text", None, 3):
        with pytest.raises(InvalidInput, match="'xs'"):
            host_value(wrong, F32, "xs", "sequence")
    with pytest.raises(InvalidInput, match="None"):
        host_value(None, F32, "x")
    with pytest.raises(InvalidInput, match="'xs'"):
        host_value([one, None], F32, "xs", "sequence")


@given(st.recursive(st.none() | st.integers() | st.floats() | st.text(max_size=3), lambda inner: st.lists(inner, max_size=3), max_leaves=6))
def test_any_nesting_is_read_or_refused(value: Any) -> None:
    for dtype in (F32, np.dtype(np.int8), STRING, None):
        try:
            read = host_value(value, dtype, "x")
        except InvalidInput:
            continue
        assert isinstance(read, np.ndarray)
        assert dtype is None or read.dtype == dtype
