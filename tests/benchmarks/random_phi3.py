"""A GGUF file in the shape of Phi-3 mini with random weights: python tests/benchmarks/random_phi3.py FILE [q4_0|q4_1|q8_0|f16]

For measuring speed where no real file can be had. Every tensor is written in full, out of one pool of random blocks; the weights are
about as wide as keeps the stream of a decoder as it is. The vocabulary is made up, of the llama (sentencepiece) kind.
"""

from __future__ import annotations

import itertools
import string
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import gguf
import numpy as np
from numpy.typing import NDArray

__all__ = ["Sizes", "write"]

_BYTES = {"q4_0": 18, "q4_1": 20, "q8_0": 34, "f16": 64}
"""Of 32 weights, by the kind of file."""
_POOL = 524287
"""Blocks in the pool: a prime, so that rows do not repeat."""
_SPACE = "\u2581"
"""What sentencepiece writes for a space."""


@dataclass(frozen=True)
class Sizes:
    """A decoder's sizes; those of Phi-3 mini with 4096 tokens of context unless others are given."""

    blocks: int = 32
    width: int = 3072
    heads: int = 32
    hidden: int = 8192
    context: int = 4096
    vocabulary: int = 32064


class _Pool:
    """Blocks of random weights for rows of a width: about as wide as 1 / sqrt(width), no two scales the same."""

    def __init__(self, kind: str, width: int, random: np.random.Generator) -> None:
        deviation = width**-0.5 * (1 + random.random(_POOL) * 0.5) / 1.25
        self.bytes: NDArray[np.uint8] = np.empty((_POOL, _BYTES[kind]), np.uint8)
        if kind == "f16":
            self.bytes[:] = (random.standard_normal((_POOL, 32), np.float32) * deviation[:, None]).astype(np.float16).view(np.uint8)
            return
        scale = deviation / (73 if kind == "q8_0" else 4.32)  # how wide the whole numbers below spread
        self.bytes[:, :2] = scale.astype(np.float16).view(np.uint8).reshape(_POOL, 2)
        if kind == "q8_0":
            self.bytes[:, 2:] = random.integers(-127, 128, (_POOL, 32), np.int8).view(np.uint8)
            return
        if kind == "q4_1":
            self.bytes[:, 2:4] = (-8 * scale).astype(np.float16).view(np.uint8).reshape(_POOL, 2)
        low, high = random.integers(1, 16, (2, _POOL, 16), np.uint8)  # 1 to 15: their mean is the zero point
        self.bytes[:, -16:] = low | high << 4

    def write(self, file: BinaryIO, blocks: int, begin: int) -> None:
        """That many of them, from a place in the pool on."""
        while blocks:
            some = min(blocks, _POOL - begin)
            self.bytes[begin : begin + some].tofile(file)
            blocks, begin = blocks - some, 0


def write(path: Path, kind: str = "q4_0", sizes: Sizes | None = None) -> None:
    """Writes the file. kind: of all matrices, "q4_0", "q4_1", "q8_0" or "f16"."""
    sizes, random, pools = sizes or Sizes(), np.random.default_rng(0), {}
    writer = gguf.GGUFWriter(path, "phi3")
    _describe(writer, kind, sizes)
    tensors: list[tuple[int, int] | None] = []  # rows and width of a matrix; None for a norm's scale
    kinds = gguf.GGMLQuantizationType
    for name, rows, width in _tensors(sizes):
        tensors.append((rows, width) if rows else None)
        if not rows:
            writer.add_tensor_info(name, (width,), np.dtype(np.float32), 4 * width)
        elif kind == "f16":
            writer.add_tensor_info(name, (rows, width), np.dtype(np.float16), 2 * rows * width)
        else:
            row = width // 32 * _BYTES[kind]
            writer.add_tensor_info(name, (rows, row), np.dtype(np.uint8), rows * row, raw_dtype=kinds[kind.upper()])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    file: Any = (writer.fout or [])[0]
    writer.write_padding(file, file.tell())
    for shape in tensors:
        begin = file.tell()
        if shape is None:
            np.ones(sizes.width, np.float32).tofile(file)
        else:
            pool = pools.setdefault(shape[1], None) or _Pool(kind, shape[1], random)
            pools[shape[1]] = pool
            pool.write(file, shape[0] * shape[1] // 32, int(random.integers(_POOL)))
        writer.write_padding(file, file.tell() - begin)
    writer.close()


def _tensors(sizes: Sizes) -> Iterator[tuple[str, int, int]]:
    """Name, rows (0 for a norm's scale), width."""
    yield "token_embd.weight", sizes.vocabulary, sizes.width
    for block in range(sizes.blocks):
        yield f"blk.{block}.attn_norm.weight", 0, sizes.width
        yield f"blk.{block}.attn_qkv.weight", 3 * sizes.width, sizes.width
        yield f"blk.{block}.attn_output.weight", sizes.width, sizes.width
        yield f"blk.{block}.ffn_norm.weight", 0, sizes.width
        yield f"blk.{block}.ffn_up.weight", 2 * sizes.hidden, sizes.width
        yield f"blk.{block}.ffn_down.weight", sizes.width, sizes.hidden
    yield "output_norm.weight", 0, sizes.width
    yield "output.weight", sizes.vocabulary, sizes.width


def _describe(writer: gguf.GGUFWriter, kind: str, sizes: Sizes) -> None:
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind.upper()}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(sizes.vocabulary)
    writer.add_context_length(sizes.context)
    writer.add_rope_scaling_orig_ctx_len(sizes.context)
    writer.add_embedding_length(sizes.width)
    writer.add_feed_forward_length(sizes.hidden)
    writer.add_block_count(sizes.blocks)
    writer.add_head_count(sizes.heads)
    writer.add_head_count_kv(sizes.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(sizes.width // sizes.heads)
    writer.add_rope_freq_base(10000.0)
    tokens, types = _vocabulary(sizes.vocabulary)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(max(number - 258, 0)) for number in range(len(tokens))])
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


def _vocabulary(size: int) -> tuple[list[str], list[int]]:
    """Specials, 256 bytes, then made-up pieces."""
    kinds = gguf.TokenType
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words = ("".join(some) for length in range(1, 5) for some in itertools.product(string.ascii_lowercase, repeat=length))
    pieces = itertools.chain([_SPACE], map(chr, range(33, 127)), (_SPACE + word for word in words))
    tokens = first + list(itertools.islice(pieces, size - len(first)))
    types = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *[kinds.BYTE] * 256, *[kinds.NORMAL] * (size - len(first))]
    return tokens, [int(one) for one in types]


if __name__ == "__main__":
    write(Path(sys.argv[1]), *sys.argv[2:3])
