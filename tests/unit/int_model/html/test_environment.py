"""The environment of pages: everything escaped, scripts allowed by their hash alone, macros that hold together."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from typing import Any

import jinja2
import pytest

from int_model.html.charts import Chart, Label, Line, Mark, Tick
from int_model.html.environment import page_environment

NASTY = '"><script>x</script>{{ 7 * 7 }}'
PAGE = """{% extends "kit/file.html.j2" %}{% block title %}{{ nasty }}{% endblock %}
{% block content %}{{ body }}{% endblock %}{% block script %}let a = "<b> & 'c'";{% endblock %}"""


class Balanced(HTMLParser):
    """Elements that are closed in the right order, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


def drawn(template: str, **values: Any) -> str:
    return page_environment("int_model.report").from_string(template).render(nasty=NASTY, **values)


def test_a_file_allows_its_own_script_alone() -> None:
    text = drawn(PAGE, body="")
    (script,) = re.findall("<script>(.*)</script>", text)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert script == "let a = \"<b> & 'c'\";"
    assert f"script-src 'sha256-{digest}'" in text
    without = drawn(re.sub(r"{% block script.*", "", PAGE), body="")
    assert "script" not in without.partition("<body")[0].partition("<title>")[0]
    assert "49" not in text


CHART = Chart(
    100, 50, 10, 90, 0, 40, (Tick(10, NASTY),), (Tick(0, NASTY),), x_title=NASTY, zero=20.0,
    lines=(Line(9, NASTY, ((10, 0), (90, 40)), Label(90, 40, NASTY)),),
    marks=(Mark(1, NASTY, 50, 20, (40, 20, 60, 20), Label(50, 20, NASTY, "end")),),
)  # fmt: skip


@pytest.mark.parametrize(
    "call",
    [
        "facts([(nasty, nasty), (nasty, nasty, nasty)])",
        "badge(nasty, nasty)",
        "notice(nasty, nasty)",
        "tabs([(nasty, nasty, true, 3), (nasty, '', false, none)], nasty)",
        "site(nasty, [(nasty, nasty, true, none)])",
        "legend([nasty, nasty], true)",
        "thumb(nasty, nasty)",
        "thumb('', nasty, nasty)",
        "progress([(nasty, 12.5, nasty)], nasty)",
        "bars([{'count': 1, 'height': 2, 'title': nasty, 'address': nasty}, {'count': 0}], [nasty], nasty)",
        "chart(chart, nasty)",
    ],
)
def test_macros_escape_what_they_are_given(call: str) -> None:
    text = drawn("{{ kit." + call + " }}", chart=CHART)
    page = Balanced(text)
    assert "script" not in {tag for tag, _ in page.elements}
    assert "&lt;script&gt;" in text


def test_macros_around_what_the_page_writes() -> None:
    text = drawn("{% call kit.table(nasty) %}<tr><td>{{ nasty }}</td></tr>{% endcall %}")
    text += drawn("{% call kit.figure(nasty, nasty) %}<b>{{ nasty }}</b>{% endcall %}")
    tags = [tag for tag, _ in Balanced(text).elements]
    assert tags == ["div", "table", "tr", "td", "figure", "figcaption", "small", "b"]


def test_a_missing_value_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError):
        drawn("{{ nothing }}")
