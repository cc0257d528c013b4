"""One way to make pages: a package's templates beside those of the kit, every text escaped, every name defined."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, PrefixLoader, StrictUndefined
from markupsafe import Markup

from int_model.html import text


@cache
def page_environment(package: str) -> Environment:
    """The environment of a package's folder ``templates``; the kit's own templates begin with ``kit/``.

    Every template has the macros of ``kit/parts.html.j2`` as ``kit``, the functions of `int_model.html.text` as
    filters, and ``source(name)``: a style sheet or script of either folder as it is.
    """
    loader = ChoiceLoader([PrefixLoader({"kit": PackageLoader("int_model.html")}), PackageLoader(package)])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {name: getattr(text, name) for name in text.FILTERS}
    environment.filters["sha256"] = _sha256
    environment.globals["source"] = lambda name: Markup(loader.get_source(environment, name)[0])  # noqa: S704 our files  # nosec B704
    environment.globals["kit"] = environment.get_template("kit/parts.html.j2").module
    return environment


def render(package: str, template: str, **values: Any) -> str:
    """The page of a template; lone surrogates (file names that are no UTF-8) become question marks."""
    page = page_environment(package).get_template(template).render(**values)
    return page.encode("utf-8", "replace").decode("utf-8")


def _sha256(script: str) -> str:
    """The digest by which a Content-Security-Policy allows an inline script."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
