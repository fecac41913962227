"""Writes the output of each example into the pages that show it: `uv run python tests/transcripts.py`."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TRANSCRIPT = re.compile(r"```console\n\$ uv run python (examples/\S+)\n(.*?)```", re.DOTALL)


def output_of(script: str) -> str:
    """What the example prints."""
    return subprocess.run([sys.executable, ROOT / script], capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip()


if __name__ == "__main__":
    for page in PAGES:
        text = page.read_text()
        page.write_text(TRANSCRIPT.sub(lambda m: f"```console\n$ uv run python {m[1]}\n{output_of(m[1])}\n```", text))
