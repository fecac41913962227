"""Mutated GGUF files: each one is built, or refused as InvalidModel, in bounded memory.

    uv run python tests/gguf/fuzz_gguf.py --count 5000

Cases run in child processes whose memory may grow by the size of the file and `HEADROOM`. A crash is a child that died or hung, an
exception that is not turnout's, or a MemoryError. A case is known by its number: `--first NUMBER --count 1` runs it again.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import re
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf_decoders
import numpy as np
from made import MadeTensor, gguf

from turnout_gguf.architectures import ARCHITECTURES, ENCODERS

if TYPE_CHECKING:
    from turnout.errors import TurnoutError

HEADROOM = 320 << 20
SECONDS = 60  # for one case, on the slowest machine
BATCH = 250

FAMILIES = (*ARCHITECTURES, *ENCODERS)
KINDS = ("Q4_K", "Q4_1", "Q8_0", "F16", "TQ1_0")
HOSTILE = (0, 1, 2, 3, 7, 31, 32, 255, 256, 4096, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**61, 2**63 - 1, 2**63, 2**64 - 1)


# the mutations ----------------------------------------------------------------------------------------------------------


def flip_bits(file: bytearray, head: int, draw: random.Random) -> None:
    for _ in range(draw.randint(1, 8)):
        file[draw.randrange(head)] ^= 1 << draw.randrange(8)


def hostile_number(file: bytearray, head: int, draw: random.Random) -> None:
    size = draw.choice((4, 8))
    at = draw.randrange(4, head - size)
    file[at : at + size] = (draw.choice(HOSTILE) & (2 ** (8 * size) - 1)).to_bytes(size, "little")


def cut(file: bytearray, head: int, draw: random.Random) -> None:
    del file[draw.randrange(draw.choice((head, len(file)))) :]


def drop(file: bytearray, head: int, draw: random.Random) -> None:
    at = draw.randrange(head)
    del file[at : at + draw.randint(1, 64)]


def repeat(file: bytearray, head: int, draw: random.Random) -> None:
    at, size = draw.randrange(head), draw.randint(1, 256)
    file[at:at] = file[at : at + size]


def noise(file: bytearray, head: int, draw: random.Random) -> None:
    at = draw.randrange(head)
    file[at : at + 16] = draw.randbytes(16)


def scramble_weights(file: bytearray, head: int, draw: random.Random) -> None:
    at = draw.randrange(head, len(file) - 4096)
    file[at : at + 4096] = draw.randbytes(4096)


BYTES: tuple[Callable[[bytearray, int, random.Random], None], ...]
BYTES = (flip_bits, hostile_number, cut, drop, repeat, noise, scramble_weights)


@functools.cache
def tensors_of(kind: str, architecture: str = "llama") -> tuple[MadeTensor, ...]:
    if architecture == "bert":
        return tuple(gguf_decoders.encoder_tensors(kind))
    made = gguf_decoders.tensors(kind, **gguf_decoders.AS_FAMILY.get(architecture, {}))
    if architecture == "phi3":
        made += [gguf_decoders.vector(f"rope_factors_{which}.weight", gguf_decoders.HEAD // 2, 2, 3) for which in ("short", "long")]
    return tuple(made)


VOCABULARY = {
    "model": "gpt2",
    "pre": "gpt-2",
    "tokens": [*map(chr, range(33, 127)), "ab", "<eos>"],
    "token_type": np.array([1] * 95 + [3], np.int32),
    "merges": ["a b"],
    "bos_token_id": 95,
    "eos_token_id": 95,
    "add_bos_token": True,
}


def keys_of(architecture: str) -> dict[str, Any]:
    """A sound file's keys, with a small vocabulary."""
    own = {
        "llama": {},
        "phi3": {"rope.scaling.original_context_length": 32, "attention.sliding_window": 40},
        "bert": {"context_length": gguf_decoders.VOCABULARY, "attention.layer_norm_epsilon": 1e-5, "pooling_type": 1},
    }.get(architecture, {"attention.sliding_window": 16} if architecture.startswith("gemma") else {})
    named = {f"tokenizer.ggml.{key}": value for key, value in VOCABULARY.items()}
    return gguf_decoders.keys(architecture, own) | named | {"tokenizer.chat_template": "{{ messages[0].content }}"}


@functools.cache
def sound(kind: str, architecture: str = "llama") -> bytes:
    return gguf(keys_of(architecture), tensors_of(kind, architecture))


def typed(draw: random.Random) -> Any:
    """A value of any type that a key may have; some are the bytes of none."""
    number = draw.choice(HOSTILE)
    return draw.choice(
        (
            number & 0xFFFFFFFF,
            float(draw.choice((0.0, -1.0, 1e-30, 1e30, float("inf"), float("nan")))),
            struct.pack("<IQ", 10, number),
            struct.pack("<Iq", 11, -1),
            struct.pack("<IIQ", 9, draw.choice((4, 8, 9)), number),
            struct.pack("<IQ", 8, number),
            "x" * draw.choice((0, 1, 5000)),
            ["a"] * draw.choice((0, 3, 1000)),
            True,
        )
    )


def with_other_keys(kind: str, architecture: str, draw: random.Random) -> bytes:
    keys = keys_of(architecture)
    more = (
        "note",
        "rope.freq_base",
        "attention.sliding_window",
        "pooling_type",
        "rope.scaling.attn_factor",
        "rope.scaling.type",
        "rope.scaling.factor",
        "rope.dimension_count",
        "attention.key_length",
        "expert_count",
    )
    for _ in range(draw.randint(1, 3)):
        name = draw.choice((*keys, "general.alignment", *(f"{architecture}.{key}" for key in more)))
        old = keys.get(name)
        alike = isinstance(old, int) and draw.random() < 0.5  # a number for a number gets further than anything else
        keys[name] = draw.choice(HOSTILE) & 0xFFFFFFFF if alike else typed(draw)
    return gguf(keys, tensors_of(kind, architecture))


def with_other_tensors(kind: str, architecture: str, draw: random.Random) -> bytes:
    tensors = list(tensors_of(kind, architecture))
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(tensors))
        one = tensors[at]
        shape = list(one.shape)
        shape[draw.randrange(len(shape))] = draw.choice(HOSTILE)
        tensors[at] = draw.choice(
            (
                MadeTensor(one.name, one.kind, tuple(shape), one.data),
                MadeTensor(one.name, one.kind, one.shape[::-1], one.data),
                MadeTensor(one.name, one.kind, (*one.shape, 1), one.data),
                MadeTensor(one.name, draw.randrange(45), one.shape, one.data),
                MadeTensor(draw.choice(tensors).name, one.kind, one.shape, one.data),
                MadeTensor(one.name, one.kind, one.shape, one.data, offset=draw.choice(HOSTILE)),
                MadeTensor(one.name, one.kind, one.shape, one.data, offset=32 * draw.randrange(1000)),
                MadeTensor("rope_freqs.weight", one.kind, one.shape, one.data),
            )
        )
    return gguf(keys_of(architecture), tensors)


def case(number: int) -> bytes:
    """The file of a case; the same for the same number."""
    draw = random.Random(number)
    kind, architecture = draw.choice(KINDS), draw.choice(FAMILIES)
    way = draw.random()
    if way < 0.2:
        return with_other_keys(kind, architecture, draw)
    if way < 0.4:
        return with_other_tensors(kind, architecture, draw)
    file = bytearray(sound(kind, architecture))
    head = file.index(b"blk.1.ffn_down.weight") + 64
    for _ in range(draw.choice((1, 1, 2))):
        mutate = draw.choice((*BYTES, scramble_weights, scramble_weights))
        mutate(file, min(head, len(file) - 8), draw)
        if len(file) < 8192:
            break
    return bytes(file)


# a child: what becomes of each file -------------------------------------------------------------------------------------


def outcome(file: bytes, *, run: bool) -> str:
    """One word or sentence for what becomes of it; raises for what must not be."""
    from turnout.errors import InvalidModel
    from turnout_gguf.format import GgufFormat, Options

    try:
        accuracy = ("fast", "near", "exact")[len(file) % 3]
        source = GgufFormat().open(file, accuracy=accuracy, options=Options(batch=1 if run or len(file) % 2 else None))
        for value in source.metadata.values():
            len(list(value)) if hasattr(value, "__len__") else value
        model = source.model()
    except InvalidModel as error:
        return _refusal(error)
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        assert value.const_value.numpy().shape == tuple(value.const_value.shape.numpy()), f"{value.name} has another shape"
    text = _text(source.metadata)
    return f"built, {_run(model)}{text}" if run else f"built{text}"


def _text(metadata: Any) -> str:
    """What becomes of a text and a conversation, "" where they become tokens."""
    from turnout.errors import InvalidInput, InvalidModel, NotGenerative
    from turnout.formats import Origin
    from turnout_text.language import language_of

    try:
        language = language_of(Origin("<bytes>", "gguf", None, metadata))
        language.decode(language.encode("ab \u4f60<eos>", ends=True, special=True), special=True)
        if language.template is not None:
            language.chat([{"role": "user", "content": "x"}])
    except (InvalidInput, InvalidModel, NotGenerative) as error:
        return f", without text: {_refusal(error)}"
    return ""


def _refusal(error: TurnoutError) -> str:
    """The message without what differs from file to file."""
    if not error.message or not error.hint or len(error.message) > 1000:
        raise ValueError(f"a message of {len(error.message)} characters with a hint of {len(error.hint)}")
    message = re.sub(r"^<bytes>: |'.*?'|key \S+ is|\[.*?\]|\b[\d.e+-]+\b", "_", error.message)
    return f"refused: {message[:40]!a}"


def _run(model: Any) -> str:
    from running import logits_of

    import turnout

    with turnout.load(model, device="cpu") as loaded:
        if {info.name for info in loaded.inputs} == {"input_ids", "attention_mask"}:
            ids = np.zeros((1, 2), np.int64)
            (found,) = loaded.run(input_ids=ids, attention_mask=ids + 1).values()
        else:
            found = logits_of(loaded, [0, 0])
    return "finite numbers" if np.isfinite(found).all() else "numbers that are not finite"


def child(first: int, count: int, every: int) -> None:
    """Prints a line for each case, as soon as it is done."""
    outcome(sound("Q8_0"), run=every > 0)  # what is imported and allocated once is not what is measured
    for number in range(first, first + count):
        file = case(number)
        _limit(len(file) + HEADROOM)
        try:
            result = outcome(file, run=every > 0 and number % every == 0)
        except BaseException as error:
            result = f"CRASH {type(error).__name__}: {error}"[:300]
        print(json.dumps(result), flush=True)


def _limit(more: int) -> None:
    """The process may have so many bytes more than it has now."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (ImportError, OSError):
        return
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + more, resource.RLIM_INFINITY))


# the parent -------------------------------------------------------------------------------------------------------------


def outcomes(first: int, count: int, every: int) -> Iterator[tuple[int, str]]:
    """(number, outcome) of each case; a child that dies is replaced, and the case it died of is a crash."""
    number, last = first, first + count
    while number < last:
        numbers = {"--first": number, "--count": min(BATCH, last - number), "--run": every}
        options = [str(part) for pair in numbers.items() for part in pair]
        command = [sys.executable, __file__, "--child", *options]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            start = number
            timer = threading.Timer(SECONDS, process.kill)
            timer.start()
            for line in process.stdout:
                timer.cancel()
                yield number, json.loads(line)
                number += 1
                timer = threading.Timer(SECONDS, process.kill)
                timer.start()
            timer.cancel()
            said = process.stderr.read()[-300:]
        if process.returncode or number == start:
            yield number, f"CRASH the child ended with {process.returncode}: {said}"
            number += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--run", type=int, default=5, help="load and run one built model in so many; 0 for none")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.first, given.count, given.run)
        return 0
    classes: Counter[str] = Counter()
    crashes = 0
    for number, result in outcomes(given.first, given.count, given.run):
        if result.startswith("CRASH"):
            crashes += 1
            print(f"case {number}: {result}")
        classes[result] += 1
    for name, times in classes.most_common():
        print(f"{times:6} {name}")
    print(f"crashes: {crashes}")
    return int(crashes > 0)


if __name__ == "__main__":
    sys.exit(main())
