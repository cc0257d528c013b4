"""``/docs``: the API as a page of the backend's own, and the security that its description names."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.responses import HTMLResponse, Response

from int_model.html.environment import render
from ml_backend.api.middleware import PAGE_HEADERS
from ml_backend.api.openapi import with_security


def add_description(app: FastAPI) -> None:
    """Add the page; ``/openapi.json`` is FastAPI's."""
    described = app.openapi
    app.openapi = lambda: with_security(described())  # type: ignore[method-assign] # FastAPI's way to add to it

    async def docs() -> Response:
        return HTMLResponse(docs_page(app.openapi()), headers=PAGE_HEADERS)

    app.add_api_route("/docs", docs, methods=["GET"], include_in_schema=False, response_model=None)


def docs_page(schema: dict[str, Any]) -> str:
    """The page of an OpenAPI description: every operation, what it takes and what it answers."""
    operations = [
        {
            "method": method.upper(),
            "path": path,
            "text": operation.get("description", ""),
            "takes": _takes(operation),
            "answers": [(status, answer["description"]) for status, answer in operation["responses"].items()],
        }
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]
    return render("ml_backend.api", "docs.html.j2", root="", busy=False, refresh=0, operations=operations)


def _takes(operation: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and meanings of the fields of the body and the query."""
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    fields = [(name, field.get("description", "")) for name, field in body.get("properties", {}).items()]
    return fields + [(f"?{entry['name']}=", entry.get("description", "")) for entry in operation.get("parameters", [])]
