"""The API's description of itself (OpenAPI 3.1): what FastAPI knows of the routes, and what holds for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from perdure.server.access import NAMESPACE, role_of
from perdure.server.api.answers import ProblemDocument
from perdure.server.errors import MEDIA_TYPE
from perdure.server.principal import Role
from perdure.server.security.authentication import COOKIE
from perdure.server.security.sent import CSRF

ABOUT = """\
Durable workflows: start runs, look at them, move them.

Times are RFC 3339 in UTC. Durations are seconds, or texts such as `5 minutes`. Ids in paths are percent-encoded. Lists
come in pages: `next` of one is the `cursor` of the page behind it. What is wrong is told as a problem document
(RFC 9457), whose `errors` name each place. Fields and parameters that are not described here are refused.
"""

TAGS = {
    "runs": "Executions of workflows.",
    "watching": "Streams of what changes, as server-sent events.",
    "events": "What starts workflows that are subscribed to it.",
    "workflows": "What can be started.",
    "definitions": "Workflows that are written as data.",
    "queues": "Where runs wait, what that bounds, and what failed.",
    "schedules": "What starts runs at certain times.",
    "undos": "Runs that need help.",
    "workers": "Who works the runs.",
    "failures": "What runs failed with.",
    "stats": "How many runs there are.",
    "executions": "Workflows by the paths of queue-and-worker services.",
    "keys": "Who may ask.",
    "sessions": "Who asks.",
    "audit": "What operators did.",
    "health": "Whether the server is there, and can do its work.",
}

PROBLEMS = {
    400: "The body is no JSON.",
    401: "Nobody has proved who they are.",
    403: "The role does not suffice.",
    404: "It is not there, or not in this namespace.",
    408: "The body did not come in time.",
    409: "Its state does not allow it.",
    413: "The body, or a value in it, is too large.",
    414: "The address is too long.",
    415: "The body is of another type than JSON.",
    422: "Something in the request is wrong; `errors` says what, and where.",
    429: "Too much at once; `Retry-After` says when to come back.",
    431: "The headers are too large.",
    503: "Not now; `Retry-After` says when to come back.",
}

_SCHEMES: dict[str, Any] = {
    "key": {"type": "http", "scheme": "bearer", "description": "An API key (`pdk_…`), or a token of a trusted issuer."},
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": COOKIE,
        "description": "A session, made of an API key at `/login`; `perdure` over plain HTTP on one machine.",
    },
    "csrf": {
        "type": "apiKey",
        "in": "header",
        "name": CSRF,
        "description": "What goes with a session where something is changed: as the pages of the dashboard have it.",
    },
}
_METHODS = ("get", "post", "put", "patch", "delete")


def describe(app: FastAPI) -> dict[str, Any]:
    """Return the description of an application, as it is for whoever has one namespace."""
    document = get_openapi(
        title="Perdure",
        version=version("perdure"),
        openapi_version="3.1.0",
        description=ABOUT,
        routes=app.routes,
        tags=[{"name": name, "description": text} for name, text in TAGS.items()],
    )
    routes = {route.operation_id: route for route in app.routes if isinstance(route, APIRoute)}
    parts = document.setdefault("components", {})
    parts["securitySchemes"] = _SCHEMES
    schemas = parts.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas.update(_problem_schemas())
    parts["responses"] = {f"Problem{status}": _problem(status) for status in PROBLEMS}
    for operation in _operations(document):
        _complete(operation, routes[operation["operationId"]])
    return document


def with_namespaces(document: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Return a description for whoever has several namespaces, and says by a header which is meant."""
    if len(names) < 2:
        return document
    parameter = {
        "name": NAMESPACE.decode().title(),
        "in": "header",
        "description": "The namespace that the request is about.",
        "schema": {"type": "string", "enum": list(names)},
    }
    paths = {
        path: {
            method: operation
            if not operation["security"]
            else {**operation, "parameters": [*operation.get("parameters", ()), parameter]}
            for method, operation in methods.items()
        }
        for path, methods in document["paths"].items()
    }
    return {**document, "paths": paths}


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for methods in document["paths"].values():
        yield from (operation for method, operation in methods.items() if method in _METHODS)


def _complete(operation: dict[str, Any], route: APIRoute) -> None:
    """Say of an operation what role it takes, and how else it may end."""
    role = role_of(route)
    by_session: dict[str, list[str]] = {"session": []} if route.methods == {"GET"} else {"session": [], "csrf": []}
    operation["security"] = [] if role is None else [{"key": []}, by_session]
    if role is not None:
        operation["x-perdure-role"] = str(role)
        operation["description"] = f"{operation.get('description', '')}\n\nTakes the role {role}.".strip()
    parameters = operation.get("parameters", [])
    for parameter in parameters:
        _narrow(parameter["schema"])
    has_body = "requestBody" in operation
    has_path = any(parameter["in"] == "path" for parameter in parameters)
    found = {414, 422, 431, 503} if role is None else {401, 414, 422, 429, 431, 503}
    found |= {403} if role is not None and role > Role.METRICS else set()
    found |= {400, 408, 413, 415} if has_body else set()
    found |= {404} if has_path else set()
    found |= {404, 409} if has_body else set()
    responses = operation["responses"]
    responses.pop("422", None)
    for status in sorted(found):
        responses[str(status)] = {"$ref": f"#/components/responses/Problem{status}"}


def _narrow(schema: dict[str, Any]) -> None:
    """Say of a parameter that it is left out rather than null, and of a text that it has no control characters."""
    if given := [each for each in schema.get("anyOf", ()) if each.get("type") != "null"]:
        del schema["anyOf"]
        schema.update(given[0] if len(given) == 1 else {"anyOf": given})
    for each in (schema, *schema.get("anyOf", ()), schema.get("items", {})):
        if each.get("type") == "string" and not {"format", "enum", "pattern"} & each.keys():
            each["format"] = "printable"


def _problem(status: int) -> dict[str, Any]:
    example = {
        "type": "urn:perdure:error:invalid-request",
        "title": "The request is not valid",
        "status": status,
        "detail": "body.workflow: it is needed, and not there",
        "errors": [{"path": "body.workflow", "message": "it is needed, and not there"}],
    }
    content: dict[str, Any] = {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}
    if status == 422:
        content["example"] = example
    return {"description": PROBLEMS[status], "content": {MEDIA_TYPE: content}}


def _problem_schemas() -> dict[str, Any]:
    schema = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
    inner: dict[str, Any] = schema.pop("$defs")
    return {"ProblemDocument": schema, **inner}
