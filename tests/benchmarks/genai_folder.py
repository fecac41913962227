"""A folder for onnxruntime-genai from a GGUF, for tests/benchmarks/text.py: the weights as float32, then the builder's int4.

    python tests/benchmarks/genai_folder.py MODEL.gguf FOLDER

Wants torch, transformers, accelerate, gguf and onnxruntime-genai: an environment of its own. The builder rounds the weights anew,
which costs quality; the folder is a peer in speed only.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path


def main(model: Path, folder: Path) -> None:
    import torch
    import transformers

    with tempfile.TemporaryDirectory() as away:
        kind = {"pretrained_model_name_or_path": str(model.parent), "gguf_file": model.name}
        read = transformers.AutoModelForCausalLM.from_pretrained(**kind, dtype=torch.float32)
        read.hf_quantizer = None  # the weights are float32 by now, and it would refuse to write them
        if hasattr(read.config, "quantization_config"):
            del read.config.quantization_config
        read.save_pretrained(away)
        transformers.AutoTokenizer.from_pretrained(**kind).save_pretrained(away)
        builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", away, "-o", str(folder), "-c", away]
        subprocess.run([*builder, "-p", "int4", "-e", "cpu", "--extra_options", "int4_accuracy_level=4"], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]))
