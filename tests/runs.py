"""What a run left behind, but for what cannot repeat."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl without what is measured with a clock."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]
