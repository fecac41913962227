"""The structures that llama.h passes by value, and whether the library at hand has them where they are expected.

llama.cpp changes these structures now and then, and a library says nothing of its layout. It does say its defaults, which are
documented values: a structure whose defaults stand where they should is laid out as written here, and any other is refused. Each is
declared longer than it is, so that a library with more fields at its end neither writes nor reads past it.
"""

from __future__ import annotations

import ctypes as C
from collections.abc import Mapping
from typing import Any, ClassVar

__all__ = ["Batch", "ContextParams", "ModelParams", "misplaced"]

_SPARE = ("spare", C.c_ubyte * 256)


class ModelParams(C.Structure):
    """struct llama_model_params, as far as it is used."""

    _fields_: ClassVar = [
        ("devices", C.c_void_p),  # a list of ggml_backend_dev_t that ends with NULL
        ("tensor_buft_overrides", C.c_void_p),
        ("n_gpu_layers", C.c_int32),  # negative: all
        ("split_mode", C.c_int32),
        ("load_mode", C.c_int32),
        ("lazy_mode", C.c_int32),
        ("main_gpu", C.c_int32),
        ("tensor_split", C.c_void_p),
        ("progress_callback", C.c_void_p),
        ("progress_callback_user_data", C.c_void_p),
        ("kv_overrides", C.c_void_p),
        ("vocab_only", C.c_uint8),  # bool; as a number, since any other than 0 and 1 gives a wrong layout away
        ("check_tensors", C.c_uint8),
        ("use_extra_bufts", C.c_uint8),
        ("no_host", C.c_uint8),
        ("no_alloc", C.c_uint8),
        _SPARE,
    ]


class ContextParams(C.Structure):
    """struct llama_context_params, as far as it is used."""

    _fields_: ClassVar = [
        ("n_ctx", C.c_uint32),
        ("n_batch", C.c_uint32),
        ("n_ubatch", C.c_uint32),
        ("n_seq_max", C.c_uint32),
        ("n_rs_seq", C.c_uint32),
        ("n_outputs_max", C.c_uint32),
        ("n_outputs_max_per_seq", C.c_uint32),
        ("n_threads", C.c_int32),
        ("n_threads_batch", C.c_int32),
        ("ctx_type", C.c_int32),
        ("rope_scaling_type", C.c_int32),
        ("pooling_type", C.c_int32),
        ("attention_type", C.c_int32),
        ("flash_attn_type", C.c_int32),
        ("rope_freq_base", C.c_float),
        ("rope_freq_scale", C.c_float),
        ("yarn_ext_factor", C.c_float),
        _SPARE,
    ]


class Batch(C.Structure):
    """struct llama_batch; a NULL `pos` or `seq_id` means the next positions of sequence 0."""

    _fields_: ClassVar = [
        ("n_tokens", C.c_int32),
        ("token", C.c_void_p),
        ("embd", C.c_void_p),
        ("pos", C.c_void_p),
        ("n_seq_id", C.c_void_p),
        ("seq_id", C.c_void_p),
        ("logits", C.c_void_p),
    ]


# the defaults that llama.h's reference implementation sets (llama_*_default_params in llama-model.cpp and llama-context.cpp)
_MODEL: Mapping[str, Any] = {
    "devices": None,
    "tensor_buft_overrides": None,
    "n_gpu_layers": -1,
    "split_mode": 1,
    "load_mode": -1,
    "main_gpu": 0,
    "tensor_split": None,
    "progress_callback": None,
    "kv_overrides": None,
    "vocab_only": 0,
    "check_tensors": 0,
    "use_extra_bufts": 1,
    "no_alloc": 0,
}
_CONTEXT: Mapping[str, Any] = {
    "n_ctx": 512,
    "n_batch": 2048,
    "n_ubatch": 512,
    "n_seq_max": 1,
    "n_threads": 4,
    "n_threads_batch": 4,
    "ctx_type": 0,
    "rope_scaling_type": -1,
    "pooling_type": -1,
    "attention_type": -1,
    "flash_attn_type": -1,
    "rope_freq_base": 0.0,
    "rope_freq_scale": 0.0,
    "yarn_ext_factor": -1.0,
}


def misplaced(model: ModelParams, context: ContextParams) -> str:
    """The first default that does not stand where it should, in words; "" where all do."""
    for title, params, expected in (("llama_model_params", model, _MODEL), ("llama_context_params", context, _CONTEXT)):
        for name, value in expected.items():
            found = getattr(params, name)
            if found != value:
                return f"{title} has {found!r} where {name} = {value!r} is due"
    return ""
