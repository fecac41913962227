"""Small decoders whose next token depends on every token before it, in each of the forms that a model can have; and a tokenizer of bytes.

The state is the sum of the embeddings of all tokens so far, so that a cache that is off by one token or position shows at once. `expected`
computes the same in NumPy.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, parser

BYTES, START, END, TURN = 256, 256, 257, 258
VOCABULARY = 259
WIDTH = 8

_RANDOM = np.random.default_rng(4)
EMBEDDINGS = (_RANDOM.integers(-4, 5, (VOCABULARY, WIDTH)) / 4).astype(np.float32)
HEAD = (_RANDOM.integers(-4, 5, (WIDTH, VOCABULARY)) / 4).astype(np.float32)


def expected(tokens: Sequence[int]) -> NDArray[np.float32]:
    """Logits, float32 [tokens, vocabulary]; exact, since every number is a small multiple of 1/4."""
    logits: NDArray[np.float32] = EMBEDDINGS[list(tokens)].cumsum(0) @ HEAD
    return logits


_FORMS = {
    # a cache of fixed size that is updated in place, and a choice of rows, as turnout's own graphs have them
    "in place": """
    (int64[B,T] input_ids, int64[B] past_tokens, int64[R] wanted_tokens, float[B,1,C,8] past_key__0)
    => (float[B,R,259] logits, float[B,1,C,8] present_key__0) {
        fresh = Gather(embeddings, input_ids)
        heads = Unsqueeze(fresh, one)
        present_key__0 = TensorScatter(past_key__0, heads, past_tokens)
        sums = CumSum(present_key__0, two)
        places = Add(past_tokens, wanted_tokens)
        states = Gather <axis = 2> (sums, places)
        rows = Squeeze(states, one)
        logits = MatMul(rows, head)
    }""",
    # a cache that grows by what is new, and all rows, as exporters make them
    "growing": """
    (int64[B,T] input_ids, int64[B,M] attention_mask, int64[B,T] position_ids, float[B,1,P,8] past_key_values__0__key)
    => (float[B,T,259] logits, float[B,1,M,8] present__0__key) {
        fresh = Gather(embeddings, input_ids)
        heads = Unsqueeze(fresh, one)
        present__0__key = Concat <axis = 2> (past_key_values__0__key, heads)
        sums = CumSum(present__0__key, two)
        places = Squeeze(position_ids, zero)
        states = Gather <axis = 2> (sums, places)
        rows = Squeeze(states, one)
        logits = MatMul(rows, head)
    }""",
    # no cache
    "whole": """
    (int64[B,T] input_ids) => (float[B,T,259] logits) {
        fresh = Gather(embeddings, input_ids)
        rows = CumSum(fresh, one_axis)
        logits = MatMul(rows, head)
    }""",
    # no cache, and only the last row
    "last": """
    (int64[B,T] input_ids) => (float[B,1,259] logits) {
        fresh = Gather(embeddings, input_ids)
        rows = CumSum(fresh, one_axis)
        final = Gather <axis = 1> (rows, minus_one)
        logits = MatMul(final, head)
    }""",
}
FORMS = tuple(_FORMS)


def model(form: str) -> onnx.ModelProto:
    made = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 24]> decoder {_FORMS[form]}')
    for node in made.graph.node:  # the notation knows no names with dots before digits
        node.input[:] = [name.replace("__", ".") for name in node.input]
        node.output[:] = [name.replace("__", ".") for name in node.output]
    for info in (*made.graph.input, *made.graph.output):
        info.name = info.name.replace("__", ".")
    constants = {
        "embeddings": EMBEDDINGS,
        "head": HEAD,
        "zero": np.array([0]),
        "one": np.array([1]),
        "two": np.array(2),
        "one_axis": np.array(1),
        "minus_one": np.array([-1]),
    }
    read = {name for node in made.graph.node for name in node.input}
    made.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items() if name in read)
    if form == "in place":
        made.graph.output[1].metadata_props.add(key="turnout.alias", value="past_key.0")
    return made


def folder(path: Path, form: str = "growing", context: int = 1000, template: str | None = None, **changed: Any) -> Path:
    """The decoder as Optimum exports one, with a tokenizer whose tokens are bytes."""
    path.mkdir(parents=True, exist_ok=True)
    onnx.save(model(form), path / "model.onnx")
    (path / "config.json").write_text(json.dumps({"max_position_embeddings": context, "eos_token_id": END, **changed}))
    tokenizer().save(str(path / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": CHAT if template is None else template}
    (path / "tokenizer_config.json").write_text(json.dumps({key: value for key, value in settings.items() if value}))
    return path


CHAT = "{{ bos_token }}{% for m in messages %}{{ m.role[0] }}:{{ m.content }}<turn>{% endfor %}{% if add_generation_prompt %}a:{% endif %}"


def tokenizer() -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    alphabet = _alphabet()
    made = Tokenizer(models.BPE({alphabet[byte]: byte for byte in range(BYTES)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ("<s>", "</s>", "<turn>")])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", START)])
    return made


def _alphabet() -> list[str]:
    """GPT-2's characters for bytes: the printable ones stand for themselves, the others follow from 256 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]
