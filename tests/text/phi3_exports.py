"""What onnxruntime-genai's builder makes of a small random Phi-3, for every precision and provider, and what turnout makes of that.

    python tests/text/phi3_exports.py

Wants torch, transformers and onnxruntime-genai beside turnout (.ci/run has an environment for it). A line for each of the nine set-ups:
that the builder makes it or why not, that turnout generates from it or what stands in the way, and how far its logits are from those of
onnxruntime-genai on the same folder (on the CPU, whatever it was made for) and from transformers'. The exit status is 1 where turnout
fails on what this machine can run, or is off by more than the precision explains.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

PRECISIONS = {"fp32": 1e-5, "fp16": 3e-2, "int4": 2.0}
"""Precision to the largest difference of a logit that it explains, as a share of the largest one. Rounding random weights to 4 bits
explains anything: there onnxruntime-genai on the same folder is what turnout is compared with."""
PEER = 1e-3
"""The same for what onnxruntime-genai computes from the same folder."""
PROVIDERS = ("cpu", "cuda", "dml")
BROKEN = {("fp32", "cuda"), ("fp32", "dml")}
"""Set-ups whose graphs nobody can run: the builder (0.18) lists outputs for the cache that no node makes. The CPU runs all others."""


def checkpoint(folder: Path) -> Any:
    """A Phi-3 of two small random layers, saved with a tokenizer of bytes; the model itself."""
    import torch
    import transformers
    from text_decoders import tokenizer

    torch.manual_seed(0)
    config = transformers.Phi3Config(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        original_max_position_embeddings=512,
        bos_token_id=256,
        eos_token_id=257,
        pad_token_id=257,
    )
    model = transformers.Phi3ForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)  # far enough apart that precisions matter, and greedy text is no tie
    model.save_pretrained(folder)
    inner = tokenizer()
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **special).save_pretrained(folder)
    return model


def export(source: Path, folder: Path, precision: str, provider: str) -> str:
    """Runs the builder; gives the last line of what it says where it fails, or ""."""
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", source, "-o", folder, "-c", folder / "cache"]
    ran = subprocess.run([*command, "-p", precision, "-e", provider], capture_output=True, text=True, check=False)
    return "" if ran.returncode == 0 else (ran.stderr.strip().splitlines() or ["no word of why"])[-1]


def generate(folder: Path, tokens: list[int], wanted: Any) -> tuple[float, str]:
    """(largest difference to the wanted logits as a share of the largest, how turnout ran it). Raises TurnoutError where it cannot."""
    import turnout
    from turnout_text.session import sessions_of

    with turnout.load(folder, device="cpu") as model:
        result = model.generate("Hello", max_tokens=8).result
        make = sessions_of(model)
        assert make is not None
        kind = type(make()).__name__
        made_for = model.origin.metadata.get("made_for", "")
        note = f", made for {made_for}" if made_for else ""
        logits = model.logits(tokens)
        apart = share(logits[-1], peer(folder, tokens))
        how = f"{result.generated_tokens} tokens, cache {kind}{note}, {apart:.1g} from onnxruntime-genai"
        assert apart < PEER, how
        return share(logits, wanted), how


def share(found: Any, wanted: Any) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def peer(folder: Path, tokens: list[int]) -> Any:
    """The logits after the last token, as onnxruntime-genai computes them on the CPU, whatever the folder was made for."""
    import onnxruntime_genai

    config = onnxruntime_genai.Config(str(folder))
    config.clear_providers()
    model = onnxruntime_genai.Model(config)
    options = onnxruntime_genai.GeneratorParams(model)
    options.set_search_options(max_length=100)
    generator = onnxruntime_genai.Generator(model, options)
    generator.append_tokens(tokens)
    return np.asarray(generator.get_logits(), np.float32).reshape(-1, np.shape(generator.get_logits())[-1])[-1]


def main() -> int:
    import torch

    from turnout.errors import TurnoutError

    warnings.filterwarnings("ignore")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    failed = 0
    with tempfile.TemporaryDirectory() as away:
        source = Path(away) / "phi3"
        model = checkpoint(source)
        tokens = np.random.default_rng(0).integers(0, 256, 40).tolist()
        with torch.no_grad():
            wanted = model(torch.tensor([tokens])).logits[0].numpy()
        for precision, provider in itertools.product(PRECISIONS, PROVIDERS):
            folder = Path(away) / f"{precision}-{provider}"
            problem = export(source, folder, precision, provider)
            if problem:
                print(f"{precision} {provider}: the builder does not make it: {problem}")
                continue
            try:
                off, how = generate(folder, tokens, wanted)
            except TurnoutError as error:
                said = str(error).replace("\n", " | ")
                print(f"{precision} {provider}: not here: {said}")
                failed += (precision, provider) not in BROKEN
                continue
            right = off <= PRECISIONS[precision]
            print(
                f"{precision} {provider}: {how}; logits off by {off:.1g} of the largest"
                + ("" if right else f", more than {PRECISIONS[precision]:.1g}")
            )
            failed += not right
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
