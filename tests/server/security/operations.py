"""Every operation of the API, from its own description, and requests for each that name what a test wants named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from perdure.server import ServerSettings, create_server
from perdure.server.description import describe

STARTS_BY_GET = ("run_sample_flow", "run_sample_failing_flow")
"""What a seed has as GET, and what starts something all the same."""


@dataclass(frozen=True)
class Operation:
    """One operation, as it is described."""

    id: str
    method: str
    path: str
    role: str | None
    spec: dict[str, Any]
    document: dict[str, Any]

    @property
    def is_stream(self) -> bool:
        return "text/event-stream" in self.spec["responses"].get("200", {}).get("content", {})

    @property
    def changes(self) -> bool:
        return self.method != "GET" or self.id in STARTS_BY_GET

    @property
    def body(self) -> dict[str, Any] | None:
        found = self.spec.get("requestBody")
        return None if found is None else self._resolved(found["content"]["application/json"]["schema"])

    def request(self, named: str, *, whole: bool = False) -> dict[str, Any]:
        """A request with `named` wherever an id or a name can stand.

        Args:
            whole: with everything that can be given, not only what has to be.
        """
        path, query = self.path, {}
        for parameter in self.spec.get("parameters", ()):
            if parameter["in"] == "path":
                path = path.replace("{" + parameter["name"] + "}", quote(named, safe=""))
            elif parameter["in"] == "query" and (parameter.get("required") or whole):
                value = self._value(parameter["schema"], named, whole=whole)
                if value is not None and parameter["name"] != "wait":
                    query[parameter["name"]] = value
        made: dict[str, Any] = {"method": self.method, "url": path, "params": query}
        if self.body is not None:
            made["json"] = self._value(self.body, named, whole=whole)
        return made

    def _resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in schema:
            found: Any = self.document
            for part in schema["$ref"].removeprefix("#/").split("/"):
                found = found[part]
            schema = found
        return schema

    def _value(self, schema: dict[str, Any], named: str, *, whole: bool, depth: int = 0) -> Any:
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return schema["enum"][0]
        for form in ("anyOf", "oneOf"):
            if form in schema and "properties" not in schema:
                given = [each for each in schema[form] if each.get("type") != "null"]
                return self._value(given[0], named, whole=whole, depth=depth)
        match schema.get("type"):
            case "string":
                return _FORMATS.get(schema.get("format", ""), named)
            case "integer" | "number":
                return max(1, schema.get("minimum", 1))
            case "boolean":
                return False
            case "array":
                return [self._value(schema.get("items", {}), named, whole=whole, depth=depth + 1)]
            case "object" | None if "properties" in schema:
                names = schema["properties"] if whole and depth < 3 else schema.get("required", ())
                return {
                    name: self._value(schema["properties"][name], named, whole=whole, depth=depth + 1) for name in names
                }
            case "object":
                return {named: named} if whole else {}
        return {"id": named}


_FORMATS = {
    "date-time": "2030-01-01T00:00:00Z",
    "perdure-duration": "1 minute",
    "perdure-tag": "customer=canary",
}


def operations() -> list[Operation]:
    """Every operation there is."""
    document = describe(create_server(ServerSettings(store="memory://")))
    return [
        Operation(spec["operationId"], method.upper(), path, spec.get("x-perdure-role"), spec, document)
        for path, methods in document["paths"].items()
        for method, spec in methods.items()
    ]


EVERY = operations()
ASKED = [each for each in EVERY if each.role is not None]
"""Those that are for somebody in particular."""


def named(operation: Operation) -> str:
    return operation.id
