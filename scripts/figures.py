"""Print the figures of the documents from what was measured: ``python scripts/figures.py [--check]``.

``docs/figures/*.json`` hold what the measuring commands wrote (each names its command). In ``README.md`` and in
``docs/*.md``

    <!-- figures: nano.strategies -->
    ...
    <!-- /figures -->

is replaced by the table of that name, and ``<!-- figure: nano.strategies.int.iou -->0.67<!-- /figure -->`` by a number.
With ``--check`` nothing is written; documents that say something else are named, with status 1.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_TABLE = re.compile(r"(<!-- figures: ([\w.-]+) -->\n).*?(<!-- /figures -->)", re.DOTALL)
_NUMBER = re.compile(r"(<!-- figure: ([^>]+?) -->).*?(<!-- /figure -->)")


def measured() -> dict[str, Any]:
    """Everything in ``docs/figures``, by file name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "docs" / "figures").glob("*.json"))}


def look_up(data: Any, name: str) -> Any:
    """What a dotted name means. Raises ``KeyError``."""
    for part in name.split("."):
        data = data[part]
    return data


def shown(value: Any) -> str:
    """A number, or ``value (low - high)`` of an interval."""
    if isinstance(value, list):
        return f"{value[0]:.3f} ({value[1]:.3f} - {value[2]:.3f})"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def table(rows: dict[str, Any]) -> str:
    """Rows of plain figures, or of one interval each, as a Markdown table."""
    first = next(iter(rows.values()))
    if not isinstance(first, dict):
        lines = ["| figure | value (95 % interval) |", "| --- | --- |"]
        return "\n".join([*lines, *(f"| {name} | {shown(value)} |" for name, value in rows.items())])
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = ["| | " + " | ".join(columns) + " |", "| --- " * (len(columns) + 1) + "|"]
    for name, row in rows.items():
        cells = [shown(row[column]) if column in row else "" for column in columns]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def printed(text: str, data: dict[str, Any]) -> str:
    """A document with its figures as they were measured. Raises ``KeyError`` for a figure that was not."""
    text = _TABLE.sub(lambda m: f"{m[1]}{table(look_up(data, m[2]))}\n{m[3]}", text)

    def number(match: re.Match[str]) -> str:
        value = look_up(data, match[2])
        first = value[0] if isinstance(value, list) else value
        return f"{match[1]}{first:.2f}{match[3]}" if isinstance(first, float) else f"{match[1]}{first}{match[3]}"

    return _NUMBER.sub(number, text)


def main(arguments: list[str]) -> int:
    data, drifted = measured(), []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        before = path.read_text(encoding="utf-8")
        after = printed(before, data)
        if before != after:
            drifted.append(path.relative_to(ROOT))
            if "--check" not in arguments:
                path.write_text(after, encoding="utf-8")
    for path in drifted:
        print(f"{path}: {'figures differ from docs/figures' if '--check' in arguments else 'written'}")
    return 1 if drifted and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
