"""``python -m ml_backend.cli.docs_tables [FILE]``: the page of all settings, attributes and options, from the code."""

from __future__ import annotations

import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import AliasChoices, SecretStr
from pydantic.fields import FieldInfo

from int_model.core.options import options_of
from int_model.strategies.registry import STRATEGIES
from ml_backend.labelstudio.attributes import PROMPTING, Attribute, output_attributes
from ml_backend.settings import Settings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "settings.md"

_SETTINGS = """\
# Settings, attributes, options

<!-- Made by `python -m ml_backend.cli.docs_tables`; change the code, not this page. -->

## Settings of the service

Environment variables of the backend. An empty value counts as not set. Lists are separated by commas. A secret can be
handed over in a file: `<NAME>_FILE` holds its path. `int-backend serve` prints what is in force, with secrets masked;
`int-backend doctor` checks it.
"""
_OPTIONS = """
## Options of the strategies

On the command line `--set iterations.count=3`; in the environment `INT_CONFIG`, as `{"iterations": {"count": 3}}` or
`{"iterations.count": 3}`. A strategy has the options that it reads and no other; another one is an error that says
which strategies have it. A configuration has five layers, of which a later one wins: the strategy's defaults;
`--preset`, or `INT_PRESET`; what the profile's models need (its table `int`); `INT_CONFIG`; `--set`. The profile's
table applies as far as the strategy has its options; for a `model_strategy` other than the service's so do the user's
preset and options.

`Paper`, `Ancestor` and `Stand-in` say whose the default is: INT's (arXiv 2501.18753), that of the released code it
builds on, or ours, where nothing is published.
"""
_ATTRIBUTES = """
## Attributes of the labeling config

They stand in the project's labeling config, so they are versioned with it. Names may be in any case. An attribute that
is misspelt changes nothing; `int-backend doctor` names it.

On a control tag (`PolygonLabels`, `BrushLabels`, `BitmaskLabels`, `VectorLabels`, `EllipseLabels`, `RectangleLabels`,
or the same without `Labels`; for the latter also on the `Labels` that they are paired with):
"""
_LABELS = """
On a `Label`:
"""
_EXTRA = """
## Extra params of the connection

The field *Any extra params to pass during model connection* takes the task prompt as plain text, or a JSON object:

| key | values | meaning |
| --- | --- | --- |
| `prompt` | text | Task prompt of all labels. |
| `prompts` | `{"label": "prompt", ...}` | Task prompts by the label's name or alias. |
| `prompt_field` | name of a task field | As `model_prompt_field`, for controls without it. |
"""
_ORDER = """
An attribute goes before the extra params, these before the environment. Which prompt wins:
[architecture](architecture.md#the-task-prompt-from-setup-to-the-vlm).
"""


def page() -> str:
    """The whole page, in Markdown."""
    control = [entry for entry in PROMPTING if entry.on == "control"]
    label = [entry for entry in PROMPTING if entry.on == "label"]
    options = output_attributes()
    extra = [f"| `{entry.name.removeprefix('model_')}` | {entry.values} | As `{entry.name}`. |" for entry in options]
    return "".join(
        [
            _SETTINGS,
            "\n| variable | values | default | meaning |\n| --- | --- | --- | --- |\n",
            "".join(f"{_row(name, info)}\n" for name, info in Settings.model_fields.items()),
            _OPTIONS,
            "\n| option | values | default | strategies | meaning |\n| --- | --- | --- | --- | --- |\n",
            "".join(f"{row}\n" for row in _option_rows()),
            _ATTRIBUTES,
            _attribute_table([*control, *options]),
            _LABELS,
            _attribute_table(label),
            _EXTRA,
            "".join(f"{line}\n" for line in extra),
            _ORDER,
        ]
    )


def variables(name: str, info: FieldInfo) -> list[str]:
    """The environment variables of a setting, the first going before the others."""
    if isinstance(info.validation_alias, AliasChoices):
        return [str(choice) for choice in info.validation_alias.choices]
    return [f"INT_{name.upper()}"]


def main(arguments: Sequence[str]) -> None:
    """Write the page to the given file, or to its place in the repository."""
    target = Path(arguments[0]) if arguments else PAGE
    target.write_text(page(), encoding="utf-8")


def _row(name: str, info: FieldInfo) -> str:
    named = " or ".join(f"`{variable}`" for variable in variables(name, info))
    return f"| {named} | {_values(info)} | {_default(name, info)} | {info.description or ''} |"


def _option_rows() -> list[str]:
    found: dict[tuple[str, str, str], tuple[FieldInfo, list[str]]] = {}  # strategies may differ in a default
    for name, entry in STRATEGIES.items():
        for option, info in options_of(entry.config):
            key = option, repr(info.default), info.description or ""
            found.setdefault(key, (info, []))[1].append(name)
    return [
        f"| `{option}` | {_values(info)} | {_default(option, info)} | {', '.join(names)} | {info.description} |"
        for (option, _, _), (info, names) in found.items()
    ]


def _attribute_table(entries: Sequence[Attribute]) -> str:
    rows = [f"| `{e.name}` | {e.values} | {e.default or 'none'} | {e.meaning} |\n" for e in entries]
    return "\n| attribute | values | default | meaning |\n| --- | --- | --- | --- |\n" + "".join(rows)


def _values(info: FieldInfo) -> str:
    kind = _plain(info.annotation)
    if get_origin(kind) is Literal:
        return ", ".join(map(str, get_args(kind)))
    words = {
        bool: "true or false",
        int: "whole number",
        float: "number",
        str: "text",
        Path: "path",
        SecretStr: "secret",
    }.get(kind) or ("list" if get_origin(kind) is tuple else "JSON")
    low, above, high = (_bound(info, name) for name in ("ge", "gt", "le"))
    limits = [
        f"at least {low}" if low else "",
        f"more than {above}" if above else "",
        f"at most {high}" if high else "",
    ]
    return ", ".join(part for part in (words, *limits) if part)


def _bound(info: FieldInfo, name: str) -> str:
    found = [value for item in info.metadata if (value := getattr(item, name, None)) is not None]
    return _number(found[0]) if found else ""


def _default(name: str, info: FieldInfo) -> str:
    if name == "data_dir":
        return "`$XDG_DATA_HOME/int-backend`, else `~/.local/share/int-backend`"
    value = info.default
    if value is None or value in ("", (), {}):
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"`{list(value)}`"
    return _number(value) if isinstance(value, int | float) else f"`{value}`"


def _number(value: Any) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def _plain(annotation: Any) -> Any:
    """The type without ``None``."""
    if get_origin(annotation) in (Union, types.UnionType):
        return next(part for part in get_args(annotation) if part is not type(None))
    return annotation


if __name__ == "__main__":
    main(sys.argv[1:])
