"""Writes the JSON schemas beside this file: `uv run python docs/schemas.py`."""

import json
from pathlib import Path

from turnout.explain import Explanation

HERE = Path(__file__).parent
(HERE / "explanation.schema.json").write_text(json.dumps(Explanation.model_json_schema(), indent=2) + "\n")
