"""The description of the API, as OpenAPI and as a page to read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import Response

from perdure.server.access import Viewer
from perdure.server.description import describe, with_namespaces
from perdure.server.routing import reply
from perdure.server.routing import router as routes

router = routes("docs")

_HERE = Path(__file__).parent
_PAGES = Environment(loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined)
_PAGES.filters["json"] = lambda value: json.dumps(value, ensure_ascii=False)
_PAGES.filters["pretty"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)


@router.get("/api/openapi.json", include_in_schema=False)
async def get_openapi(access: Viewer, request: Request) -> Response:
    """Return the description of the API."""
    return reply(with_namespaces(_described(request.app), access.principal.namespaces))


@router.get("/api/docs", include_in_schema=False)
async def get_docs(access: Viewer, request: Request) -> Response:
    """Return the description of the API as a page."""
    document = with_namespaces(_described(request.app), access.principal.namespaces)
    page = _PAGES.get_template("docs.html").render(document=document, operations=list(_operations(document)))
    return Response(page, media_type="text/html")


@router.get("/api/docs.css", include_in_schema=False)
async def get_style(access: Viewer) -> Response:
    """Return how that page looks."""
    return Response((_HERE / "docs.css").read_bytes(), media_type="text/css")


@lru_cache(maxsize=8)
def _described(app: FastAPI) -> dict[str, Any]:
    return describe(app)


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what the page shows of each operation, with what it refers to in its place."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            body = operation.get("requestBody")
            yield {
                "id": operation["operationId"],
                "method": method.upper(),
                "path": path,
                "description": operation.get("description", ""),
                "parameters": [
                    {"description": "", "required": False, **each} for each in operation.get("parameters", ())
                ],
                "body": None if body is None else _resolved(document, body["content"]["application/json"]["schema"]),
                "responses": [_response(document, *each) for each in operation["responses"].items()],
            }


def _response(document: dict[str, Any], status: str, response: dict[str, Any]) -> dict[str, Any]:
    whole = _resolved(document, response, depth=1)
    content = whole.get("content", {}).get("application/json", {})
    schema = _resolved(document, content["schema"]) if content.get("schema") else None
    return {"status": status, "description": whole["description"], "schema": schema}


def _resolved(document: dict[str, Any], value: Any, depth: int = 4) -> Any:
    """Return a part with what it refers to in its place, so deep."""
    if isinstance(value, list):
        return [_resolved(document, each, depth) for each in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value and depth > 0:
        found: Any = document
        for part in value["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        return _resolved(document, found, depth - 1)
    return {name: _resolved(document, each, depth) for name, each in value.items()}
