"""Decoders from folders of safetensors and from GGUF, by every recipe: what comes out generates, and is as near as its bits allow."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

import turnout
from turnout.device import Device
from turnout.errors import InvalidInput, InvalidModel
from turnout.graph import ir
from turnout_recipes.checkpoint import CheckpointSource
from turnout_recipes.command import optimize as command
from turnout_recipes.fold import fold_of
from turnout_recipes.halves import halve
from turnout_recipes.optimize import optimize
from turnout_recipes.products import products
from turnout_recipes.recipe import Recipe, automatic, recipe_for
from turnout_recipes.sources import help_texts, opened
from turnout_recipes.walk import Walk

# a piece of a decoder may hold a TensorScatter by itself, which older ONNX Runtimes leave to the reference
pytestmark = pytest.mark.filterwarnings("ignore::turnout.errors.SlowPathWarning")
SEEN = {"calibration_tokens": 256, "evaluation_tokens": 128}
QUICK = {**SEEN, "evaluation_tokens": 0}
TOKENS = list(range(40, 72))
SETUPS = [("cpu", "int4-rtn"), ("cuda", "int4-rtn"), ("cuda", "fp16"), ("directml", "int4-awq")]


def logits(path: Path) -> NDArray[np.float32]:
    with turnout.load(path, device="cpu") as model:
        found: NDArray[np.float32] = model.logits(TOKENS)
        return found


def distance(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize(("target", "precision"), SETUPS)
def test_the_four_setups_of_phi3(phi3: Path, tmp_path: Path, target: Any, precision: Any) -> None:
    report = optimize(phi3, tmp_path / "small", recipe_for(target, precision=precision, **SEEN))
    bound = {"fp16": 0.005, "int4-awq": 0.6, "int4-rtn": 0.6}[precision]
    assert distance(logits(tmp_path / "small"), logits(phi3)) < bound
    assert report.quality is not None
    assert report.quality.before > 1
    if precision == "fp16":
        assert report.quality.after == pytest.approx(report.quality.before, rel=5e-3)  # the real model is held to a tenth of a percent
    assert len(report.layers) == (0 if precision == "fp16" else 9)
    graph = turnout_graph(tmp_path / "small" / "model.onnx")
    bits = {node.op_type for node in graph}
    assert ("MatMulNBits" in bits) == (precision != "fp16")
    caches = {value.dtype for value in graph.inputs if (value.name or "").startswith("past_key")}
    assert caches == {ir.DataType.FLOAT if target == "cpu" else ir.DataType.FLOAT16}
    with turnout.load(tmp_path / "small", device="cpu") as model:
        assert model.generate("How?", max_tokens=4).result.generated_tokens == 4
    assert not list(tmp_path.glob("*.unfinished"))


def turnout_graph(path: Path) -> ir.Graph:
    return opened(path).model.graph


def test_a_folder_computes_what_its_gguf_computes(llama: Path, smollm_like: Path) -> None:
    """The same weights in both forms: rows of Q and K are in another order, and everything has another name."""
    np.testing.assert_allclose(logits(smollm_like), logits(llama), atol=2e-4)


@pytest.fixture
def smollm_like(llama: Path, tmp_path: Path) -> Path:
    """The llama as GGUF, written by the `gguf` package's own writer."""
    import gguf
    from safetensors.numpy import load_file

    settings = json.loads((llama / "config.json").read_text())
    writer = gguf.GGUFWriter(tmp_path / "llama.gguf", "llama")
    writer.add_block_count(settings["num_hidden_layers"])
    writer.add_context_length(settings["max_position_embeddings"])
    writer.add_embedding_length(settings["hidden_size"])
    writer.add_feed_forward_length(settings["intermediate_size"])
    writer.add_head_count(settings["num_attention_heads"])
    writer.add_head_count_kv(settings["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(settings["rms_norm_eps"])
    mapping = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, settings["num_hidden_layers"])
    for name, array in load_file(llama / "model.safetensors").items():
        for part, heads in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
            if part in name:
                count = settings[heads]
                array = array.reshape(count, 2, len(array) // count // 2, -1).swapaxes(1, 2).reshape(array.shape)
        writer.add_tensor(mapping.get_name(name, (".weight",)), np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "llama.gguf"


def test_gguf_is_a_source(smollm_like: Path, tmp_path: Path) -> None:
    report = optimize(smollm_like, tmp_path / "small", recipe_for("cpu", precision="int8", accuracy_level=1, **QUICK))
    assert len(report.layers) == 8
    assert distance(logits(tmp_path / "small"), logits(smollm_like)) < 0.08


def test_bfloat16_is_read(tmp_path: Path) -> None:
    import checkpoints

    wide, narrow = (checkpoints.write(tmp_path / kind, "llama", 64, 1, kind) for kind in ("float32", "bfloat16"))
    assert 0 < distance(logits(narrow), logits(wide)) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("family", ["phi3", "llama"])
def test_awq_is_better_than_rounding_where_channels_differ(request: pytest.FixtureRequest, tmp_path: Path, family: str) -> None:
    """At equal blocks and zero points: each layer's error in what comes out, and what is predicted for a text that it was not shown."""
    source, same = request.getfixturevalue(family), {**SEEN, "accuracy_level": 1, "block": 32}
    errors, divergences = {}, {}
    for precision, compensate in (("int4-rtn", False), ("int4-awq", False), ("int4-awq", True)):
        report = optimize(source, tmp_path / "small", recipe_for("cpu", precision=precision, compensate=compensate, **same))
        errors[precision, compensate] = np.mean([layer.output_error or 0 for layer in report.layers])
        assert report.quality is not None
        divergences[precision, compensate] = report.quality.divergence
        assert {layer.block for layer in report.layers} == {32}
    for found in (errors, divergences):
        rounded, scaled, compensated = found.values()
        assert compensated < 0.8 * scaled < 0.9 * 0.8 * rounded


@pytest.mark.parametrize("family", ["phi3", "llama"])
def test_scales_go_into_the_neighbours_and_change_nothing(request: pytest.FixtureRequest, tmp_path: Path, family: str) -> None:
    """With 8 bits, next to nothing is lost by rounding: what is lost would be a scale in a wrong place."""
    source = request.getfixturevalue(family)
    recipe = recipe_for("cpu", precision="int4-awq", more_bits=1.0, accuracy_level=1, clip=False, **QUICK)
    report = optimize(source, tmp_path / "small", recipe)
    assert {layer.bits for layer in report.layers} == {8}
    assert all(layer.scales_in and layer.scales_in != "a Mul of its own" for layer in report.layers if layer.exponent)
    assert any(layer.exponent for layer in report.layers)
    assert distance(logits(tmp_path / "small"), logits(source)) < 0.08


def test_where_scales_go(llama: Path) -> None:
    graph = CheckpointSource(llama).graph(hold=False).graph
    found = list(products(graph, Recipe(), {}))
    nodes = {product.node: product for product in found}
    groups: dict[ir.Value, list[ir.Node]] = {}
    for product in found:
        groups.setdefault(product.x, []).append(product.node)
    folds = {readers[0].name: fold_of(x, readers, nodes) for x, readers in groups.items()}
    assert {name: fold.name for name, fold in folds.items() if name and name.startswith("blk.0")} == {
        "blk.0.attn_q": "blk.0.attn_norm",
        "blk.0.attn_output": "blk.0.attn_v",
        "blk.0.ffn_gate": "blk.0.ffn_norm",
        "blk.0.ffn_down": "blk.0.ffn_up",
    }
    assert folds["blk.0.attn_output"].heads == (2, 2, 32)
    one_reader_too_few = next(readers for readers in groups.values() if len(readers) == 3)[:2]
    assert fold_of(nodes[one_reader_too_few[0]].x, one_reader_too_few, nodes).name == ""


def test_more_bits_go_where_the_error_is(llama: Path, tmp_path: Path) -> None:
    reports = [optimize(llama, tmp_path / str(share), recipe_for("cpu", more_bits=share, accuracy_level=1, **SEEN)) for share in (0.0, 0.3)]
    plain = {layer.name: layer.output_error or 0 for layer in reports[0].layers}
    better = [layer for layer in reports[1].layers if layer.bits == 8]
    assert 0 < sum(math.prod(layer.shape) for layer in better) <= 0.3 * sum(math.prod(layer.shape) for layer in reports[1].layers)
    assert max(plain, key=lambda name: plain[name]) in {layer.name for layer in better}
    near, far = (distance(logits(tmp_path / str(share)), logits(llama)) for share in (0.3, 0.0))
    assert near < far


class Killed(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int4-rtn", "int4-awq"])
def test_a_killed_run_goes_on_at_its_layer(phi3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Any) -> None:
    from turnout_recipes import awq
    from turnout_recipes import optimize as module

    texts = QUICK if precision == "int4-awq" else SEEN
    recipe, rounds = recipe_for("cpu", precision=precision, **texts), []

    def counted(*given: Any, **how: Any) -> Any:
        rounds.append(given[0].shape)
        return (awq.narrowed if precision == "int4-awq" else awq.plain)(*given, **how)

    def kill(done: float, what: str) -> None:
        if what == "blk.1.attn_qkv":
            raise Killed

    whole = optimize(phi3, tmp_path / "whole", recipe)
    with pytest.raises(Killed):
        optimize(phi3, tmp_path / "small", recipe, kill, save_every=0)
    assert not (tmp_path / "small").exists()
    monkeypatch.setattr(module, "narrowed" if precision == "int4-awq" else "plain", counted)
    pieces = []
    report = optimize(phi3, tmp_path / "small", recipe, lambda done, what: pieces.append(what), save_every=0)
    assert "blk.0.attn_output" not in pieces, "what was run before was run again"
    monkeypatch.undo()
    if precision == "int4-awq":
        assert len(rounds) == 4
    assert report.layers == whole.layers
    for name in ("model.onnx", "model.onnx.data"):
        assert (tmp_path / "small" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_what_another_recipe_left_is_not_taken(phi3: Path, tmp_path: Path) -> None:
    def kill(done: float, what: str) -> None:
        if what == "blk.1.attn_qkv":
            raise Killed

    with pytest.raises(Killed):
        optimize(phi3, tmp_path / "small", recipe_for("cpu", block=64, **QUICK), kill)
    assert list(tmp_path.glob("small.unfinished/layer*.json"))
    report = optimize(phi3, tmp_path / "small", recipe_for("cpu", block=16, **QUICK))
    assert {layer.block for layer in report.layers} == {16}


def test_a_walk_gives_what_the_model_gives(phi3: Path) -> None:
    source = opened(phi3)
    tokens = source.texts(help_texts(0), 40)
    frontiers = [dict(source.feeds(one)) for one in tokens]
    nodes = [node for node in source.model.graph if node.op_type == "MatMul"]
    cuts = [node.name for _, node in Walk(source.model, nodes, ["logits"], ["cpu", "reference"]).run(frontiers) if node is not None]
    assert len(cuts) == len(nodes)
    with turnout.load(phi3, device="cpu") as model:
        np.testing.assert_allclose(frontiers[0]["logits"][0], model.logits(tokens[0].tolist()), atol=1e-3)


def test_halves_keep_what_they_are_told(phi3: Path) -> None:
    model = CheckpointSource(phi3).model()
    assert halve(model, ["blk.0.ffn_down"]) == {"blk.0.ffn_down": "the recipe keeps it"}
    kinds = {node.name: node.outputs[0].dtype for node in model.graph if node.op_type == "MatMul"}
    assert kinds.pop("blk.0.ffn_down") == ir.DataType.FLOAT
    assert set(kinds.values()) == {ir.DataType.FLOAT16}
    assert next(value for value in model.graph.outputs if value.name == "logits").dtype == ir.DataType.FLOAT


# what is chosen ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("devices", "parameters", "wanted"),
    [
        ([Device("cuda", memory=80 << 30), Device("cpu")], 4e9, ("cuda", "fp16")),
        ([Device("cuda", memory=8 << 30), Device("cpu")], 4e9, ("cuda", "int4-rtn")),
        ([Device("directml"), Device("cpu")], 4e9, ("directml", "int4-awq")),
        ([Device("llamacpp"), Device("cpu"), Device("cuda")], 4e9, ("cpu", "int4-rtn")),
    ],
)
def test_auto_takes_the_best_device(devices: list[Device], parameters: float, wanted: tuple[str, str]) -> None:
    recipe, why = automatic(devices, int(parameters))
    assert (recipe.target, recipe.precision) == wanted
    assert devices[0].provider in why or "cpu" in why
    with pytest.raises(InvalidInput, match="no device here has a recipe"):
        automatic([Device("reference")], 1)


def test_the_command_chooses_prints_and_writes(phi3: Path, tmp_path: Path) -> None:
    run = CliRunner()
    printed = run.invoke(command, [str(phi3), "x", "--for", "directml", "--print"], catch_exceptions=False)
    assert json.loads(printed.output)["precision"] == "int4-awq"
    recipe = {**json.loads(printed.output), **SEEN, "block": 64}
    (tmp_path / "mine.yaml").write_text("\n".join(f"{key}: {json.dumps(value)}" for key, value in recipe.items()))
    made = run.invoke(command, [str(phi3), str(tmp_path / "o"), "--recipe", str(tmp_path / "mine.yaml")], catch_exceptions=False)
    assert "perplexity" in made.output
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert (report["recipe"]["block"], report["recipe"]["target"]) == (64, "directml")
    assert report["quality"]["before"] > 0
    assert report["seconds"] > 0
    auto = run.invoke(command, [str(phi3), "x", "--auto", "--print"], catch_exceptions=False)
    assert "best device here" in auto.output


# what is refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mamba"}, "its model_type is 'mamba', and turnout builds"),
        ({"quantization_config": {"bits": 4}}, "its weights are quantised already"),
        ({"hidden_act": "relu"}, "its hidden_act is 'relu'"),
        ({"rope_scaling": {"type": "spiral"}}, "its positions are scaled by 'spiral'"),
        ({"intermediate_size": 3, "num_attention_heads": 3}, "its 3 heads cannot share 4 key heads"),
        ({"num_hidden_layers": 1}, "tensors have no place"),
        ({"rms_norm_eps": None}, "layer_norm_rms_epsilon is missing"),
    ],
)
def test_folders_that_cannot_be_built(phi3: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    (tmp_path / "model.safetensors").write_bytes((phi3 / "model.safetensors").read_bytes())
    config = json.loads((phi3 / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(InvalidModel, match=message):
        turnout.load(tmp_path)


@pytest.mark.parametrize("broken", [b"", b"\xff" * 64, b"\x10\0\0\0\0\0\0\0{}"])
def test_broken_safetensors(phi3: Path, tmp_path: Path, broken: bytes) -> None:
    (tmp_path / "config.json").write_bytes((phi3 / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(broken)
    with pytest.raises(InvalidModel, match=r"model\.safetensors cannot be read"):
        turnout.load(tmp_path)


def test_a_text_that_cannot_be_run(phi3: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"the text .*nothing cannot be read"):
        optimize(phi3, tmp_path / "o", recipe_for("directml", calibration=str(tmp_path / "nothing")))
    with pytest.raises(InvalidInput, match="there is no folder"):
        optimize(phi3, tmp_path / "a" / "b", recipe_for("cpu"))
    (tmp_path / "tokenless").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "tokenless" / name).write_bytes((phi3 / name).read_bytes())
    with pytest.raises(InvalidInput, match="tokenless has no tokenizer"):
        optimize(tmp_path / "tokenless", tmp_path / "o", recipe_for("directml"))
    assert optimize(tmp_path / "tokenless", tmp_path / "o", recipe_for("cpu")).quality is None


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="what is the process's own memory is read from /proc")
def test_memory_is_bounded_by_the_largest_layer(tmp_path: Path) -> None:
    """A model of 510 MB in float32 whose largest matrix has 5: a process of its own, since others' memory would count."""
    import checkpoints

    checkpoints.write(tmp_path / "big", "llama", 768, 24, "bfloat16")
    script = (
        "import sys; from pathlib import Path; from turnout_recipes.optimize import optimize as go; from turnout_recipes.recipe import *\n"
    )
    script += "at = Path(sys.argv[1])\nprint(go(at / 'big', at / 'small', recipe_for('cpu', evaluation_tokens=0)).peak_memory)"
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout.split()[-1]) < 120e6
