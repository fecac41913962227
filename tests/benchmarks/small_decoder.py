"""A small decoder trained on text that every Python has, written as Hugging Face writes a llama: a model that starts in float32.

    python tests/benchmarks/small_decoder.py FOLDER [STEPS]      # wants torch and safetensors

Bytes are its tokens. It is trained on the documentation of the standard library's modules. Beside it lie seen.txt, some of that, and
held_out.txt, the documentation of other modules.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, HIDDEN, BLOCKS, HEADS, KEY_HEADS, CONTEXT, VOCABULARY = 128, 384, 3, 4, 2, 256, 259
HEAD = WIDTH // HEADS
BATCH, LENGTH, RATE = 6, 96, 5e-3


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, (WIDTH,), self.weight, 1e-5)


def matrix(rows: int, columns: int) -> nn.Linear:
    return nn.Linear(columns, rows, bias=False)


def turned(x: Tensor) -> Tensor:
    """Rotary positions, halves of a head against each other; x: [batch, heads, tokens, head]."""
    frequencies = 10000.0 ** (-torch.arange(HEAD // 2) / (HEAD // 2))
    angles = torch.arange(x.shape[2])[:, None] * frequencies
    first, second = x.chunk(2, -1)
    return torch.cat([first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()], -1)


class Block(nn.Module):
    """Parameters are named as transformers names them."""

    def __init__(self) -> None:
        super().__init__()
        parts = {"q_proj": HEADS * HEAD, "k_proj": KEY_HEADS * HEAD, "v_proj": KEY_HEADS * HEAD}
        self.self_attn = nn.ModuleDict({name: matrix(rows, WIDTH) for name, rows in parts.items()} | {"o_proj": matrix(WIDTH, WIDTH)})
        feed = {"gate_proj": matrix(HIDDEN, WIDTH), "up_proj": matrix(HIDDEN, WIDTH), "down_proj": matrix(WIDTH, HIDDEN)}
        self.mlp = nn.ModuleDict(feed)
        self.input_layernorm, self.post_attention_layernorm = Norm(), Norm()

    def forward(self, x: Tensor) -> Tensor:
        normed, own = self.input_layernorm(x), self.self_attn
        apart = [own[f"{part}_proj"](normed).unflatten(-1, (-1, HEAD)).transpose(1, 2) for part in "qkv"]
        q, k, v = turned(apart[0]), turned(apart[1]), apart[2]
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + own["o_proj"](seen.transpose(1, 2).flatten(2))
        normed = self.post_attention_layernorm(x)
        return x + self.mlp["down_proj"](functional.silu(self.mlp["gate_proj"](normed)) * self.mlp["up_proj"](normed))


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.model = nn.ModuleDict({"embed_tokens": nn.Embedding(VOCABULARY, WIDTH), "layers": layers, "norm": Norm()})
        self.lm_head = matrix(VOCABULARY, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.model["embed_tokens"](tokens)
        for block in self.model["layers"]:
            x = block(x)
        return self.lm_head(self.model["norm"](x))


MODULES = """argparse asyncio collections concurrent.futures contextlib csv datetime decimal difflib email fractions functools http.client
inspect io itertools json logging multiprocessing os pathlib pickle random re shutil socket sqlite3 statistics string subprocess tarfile
tempfile threading tkinter turtle typing unittest urllib.request xml.dom zipfile"""
OTHERS = "configparser calendar ftplib gettext heapq imaplib optparse platform plistlib poplib sched smtplib ssl struct textwrap uuid wave"


def texts(names: str) -> bytes:
    """The documentation strings of modules, one after another."""
    found = []
    for name in names.split():
        try:
            module = __import__(name, fromlist=["_"])
        except ImportError:
            continue
        for thing in [module, *vars(module).values()]:
            found += [
                doc for one in (thing, *getattr(thing, "__dict__", {}).values()) if isinstance(doc := getattr(one, "__doc__", None), str)
            ]
    return "\n\n".join(dict.fromkeys(found)).encode()


def write_texts(folder: Path) -> None:
    """A piece out of the middle of what it was trained on, and what it was not: nothing is in both."""
    trained = texts(MODULES)
    known = set(trained.decode().split("\n\n"))
    middle = len(trained) // 2
    (folder / "seen.txt").write_bytes(trained[middle : middle + 50000].decode(errors="ignore").encode())
    (folder / "held_out.txt").write_text(
        "\n\n".join(one for one in texts(OTHERS).decode().split("\n\n") if one not in known), encoding="utf-8"
    )


def train(steps: int) -> Decoder:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # small matrices; threads that spin cost more than they bring
    data = torch.frombuffer(bytearray(texts(MODULES)), dtype=torch.uint8).long()
    model = Decoder()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.02 if "embed" in name else parameter.shape[1] ** -0.5)
    chosen = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1)
    pace = torch.optim.lr_scheduler.OneCycleLR(chosen, RATE, total_steps=steps, pct_start=0.1)
    begin = time.monotonic()
    for step in range(steps):
        starts = torch.randint(len(data) - LENGTH - 1, (BATCH,))
        rows = torch.stack([data[at : at + LENGTH + 1] for at in starts])
        loss = functional.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        chosen.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        chosen.step()
        pace.step()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step}: loss {loss.item():.3f}, {time.monotonic() - begin:.0f} s, {len(data)} bytes of text", flush=True)
    return model


def main() -> None:
    from safetensors.torch import save_file

    folder, steps = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 600
    model = train(steps)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors")
    config = {"model_type": "llama", "hidden_size": WIDTH, "intermediate_size": HIDDEN, "num_hidden_layers": BLOCKS}
    config |= {"num_attention_heads": HEADS, "num_key_value_heads": KEY_HEADS, "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5}
    config |= {"rope_theta": 10000.0, "vocab_size": VOCABULARY, "hidden_act": "silu", "tie_word_embeddings": False, "eos_token_id": 257}
    write_texts(folder)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
