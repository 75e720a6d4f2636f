"""The OpenAPI 3.1 document, made from the route table and the types of bodies and answers."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import msgspec
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import plenum
from plenum.api import shapes
from plenum.api.call import JSON, YAML
from plenum.api.parameters import PATH, Parameter
from plenum.api.problems import MEDIA_TYPE, Problem
from plenum.api.routes import ROUTES, Reach, Route
from plenum.api.shapes import ListMetadata

_REF = "#/components/schemas/{name}"
_IN_PATH = re.compile(r"{(\w+)}")

_HEADERS: dict[str, tuple[str, str]] = {
    "If-Match": ("Only if the resource is at this version: an ETag, or * for any.", '"17"'),
    "If-None-Match": ("On reading: 304 if it still has this ETag. On writing: *, only if it does not exist.", "*"),
    "Idempotency-Key": (
        "The same request with the same key is carried out once; 1 to 200 visible characters.",
        "5f3c-apply-1",
    ),
    "traceparent": (
        "W3C trace context; the job's trace begins in it.",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ),
    "Last-Event-ID": ("Position after which a stream of events goes on.", "41"),
}

_EVENT = {
    "type": "object",
    "description": "One server-sent event; `data` is the fact as JSON.",
    "properties": {name: {"type": "string"} for name in ("id", "event", "data")},
}
_TAGS = {
    "jobs": "Training jobs, endpoints and tasks.",
    "serving": "Keys for the gateway, what was used with them, and gateways.",
    "people": "Tenants, users and their tokens.",
    "hardware": "Fleets and nodes.",
    "agents": "What node agents say and are told.",
    "log": "Facts and decisions.",
    "server": "The server itself.",
}

_PROBLEMS = {
    "400": "The body is not what its type says.",
    "401": "No token, or none that is valid.",
    "403": "The token does not allow this.",
    "404": "There is no such thing, or it is not the caller's to see.",
    "413": "The body is too large.",
    "422": "A field or parameter cannot be meant; `field` names it.",
    "429": "Too many; Retry-After says when to come again.",
    "503": "Not now, or not here; `leader` names the server to ask, where another one leads.",
}
_MACHINES = (Reach.AGENT, Reach.JOIN, Reach.GATEWAY)
_CONFLICTS = {
    "409": "The resource is in a state that does not allow this now.",
    "412": "The resource is not at the version that the request was made for.",
    "415": "A body of this type is not read.",
}

_EXAMPLE = {
    "apiVersion": "plenum.dev/v1alpha1",
    "kind": "TrainingJob",
    "metadata": {"name": "pretrain", "tenant": "research", "labels": {"team": "vision"}},
    "spec": {
        "replicas": 2,
        "resources": {"gpu": 8, "cpu": 32, "memory": "256GiB"},
        "run": {"command": ["python", "train.py"], "restarts": 3},
    },
}


@lru_cache(1)
def document() -> dict[str, Any]:
    """Return the document. Callers must not change it."""
    schemas = _Schemas()
    paths: dict[str, Any] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    for path, about in (
        ("/healthz", "Say that the server answers."),
        ("/readyz", "Say whether the server can be asked."),
    ):
        paths[path] = {"get": _open_operation(path, about, schemas)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Plenum",
            "version": plenum.__version__,
            "summary": "The control API of an AI data centre.",
            "description": "Resources are shaped as Kubernetes users know them. Every answer carries `X-Plenum-Position`, the position "
            "of the log that it shows or that what was written is durable at. Errors are problem "
            "documents (RFC 9457) with a permanent `code`.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": about} for name, about in _TAGS.items()],
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token of this control plane (`plm_…`), or a JWT of an issuer that it trusts.",
                }
            },
        },
    }


class _Schemas:
    """Collects the schemas of all types that are named."""

    def __init__(self) -> None:
        types = {Problem, ListMetadata, shapes.Health, shapes.DryRun, shapes.Done}
        models: list[type[BaseModel]] = []
        for route in ROUTES:
            for kind in (route.takes, *_kinds(route.gives)):
                if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
                    types.add(kind)
                elif isinstance(kind, type) and issubclass(kind, BaseModel) and kind not in models:
                    models.append(kind)
        ordered = sorted(types, key=lambda kind: kind.__name__)
        found, self.components = msgspec.json.schema_components(ordered, schema_hook=_any, ref_template=_REF)
        self._of: dict[Any, dict[str, Any]] = dict(zip(ordered, found, strict=True))
        # Manifests as written share names with resources as shown, so they get a prefix.
        of_models, definitions = models_json_schema(
            [(model, "validation") for model in models], ref_template="#/components/schemas/Written.{model}"
        )
        self.components |= {f"Written.{name}": schema for name, schema in definitions.get("$defs", {}).items()}
        self._of |= {model: of_models[model, "validation"] for model in models}

    def of(self, kind: Any) -> dict[str, Any]:
        """Return the schema of a type; of None, any object."""
        if isinstance(kind, tuple):
            return {"anyOf": [self._of[one] for one in kind]}
        return {"type": "object"} if kind is None else self._of[kind]

    def of_list(self, kind: Any) -> dict[str, Any]:
        """Return the schema of a list; with ``fields=`` its items are parts of what they are otherwise."""
        part = {"type": "object", "description": "With `fields`: only those."}
        return {
            "type": "object",
            "required": ["apiVersion", "kind", "metadata", "items"],
            "properties": {
                "apiVersion": {"type": "string"},
                "kind": {"type": "string"},
                "metadata": self.of(ListMetadata),
                "items": {"type": "array", "items": {"anyOf": [self.of(kind), part]}},
            },
        }


def _kinds(gives: Any) -> tuple[Any, ...]:
    return gives if isinstance(gives, tuple) else (gives,)


def _any(kind: type) -> dict[str, Any]:
    if kind is msgspec.Raw:
        return {"type": "object"}
    raise NotImplementedError(kind)


def _operation(route: Route, schemas: _Schemas) -> dict[str, Any]:
    parameters = [_parameter(PATH[name], "path") for name in _IN_PATH.findall(route.path)]
    parameters += [_parameter(parameter, "query") for parameter in route.parameters]
    parameters += [_header(name) for name in route.headers]
    operation: dict[str, Any] = {
        "operationId": route.name,
        "tags": [route.tag],
        "summary": route.about,
        "description": f"Action `{route.action}` on {route.reach.value}.",
        "parameters": parameters,
        "responses": _responses(route, schemas),
    }
    if route.takes is not None:
        operation["requestBody"] = _body(route, schemas)
    if route.reach in _MACHINES:
        operation["x-plenum-for"] = "gateways" if route.reach is Reach.GATEWAY else "agents"
    return operation


def _open_operation(path: str, about: str, schemas: _Schemas) -> dict[str, Any]:
    content = {JSON: {"schema": schemas.of(shapes.Health)}}
    responses = {"200": {"description": "It is so.", "content": content}}
    if path == "/readyz":
        responses["503"] = {"description": "Not yet.", "content": content}
    return {"operationId": path[1:], "tags": ["server"], "summary": about, "security": [], "responses": responses}


def _parameter(parameter: Parameter, where: str) -> dict[str, Any]:
    told: dict[str, Any] = {
        "name": parameter.name,
        "in": where,
        "required": where == "path",
        "description": parameter.about,
        "schema": parameter.schema(),
    }
    if parameter.example is not None:
        told["example"] = [parameter.example] if parameter.many else parameter.example
    return told


def _header(name: str) -> dict[str, Any]:
    about, example = _HEADERS[name]
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": about,
        "schema": {"type": "string", "maxLength": 300},
        "example": example,
    }


def _body(route: Route, schemas: _Schemas) -> dict[str, Any]:
    schema = schemas.of(route.takes)
    is_manifest = issubclass(route.takes, BaseModel)
    content: dict[str, Any] = {JSON: {"schema": schema}}
    if is_manifest:
        content[YAML[0]] = {"schema": schema}
    if route.takes.__name__ == "TrainingJobManifest":
        content[JSON]["example"] = _EXAMPLE
    return {"required": not route.takes_optional, "content": content}


def _responses(route: Route, schemas: _Schemas) -> dict[str, Any]:
    position = {"X-Plenum-Position": {"description": "Position of the log.", "schema": {"type": "integer"}}}
    told: dict[str, Any] = {"description": "As asked.", "headers": dict(position)}
    if isinstance(route.gives, str):
        told["content"] = {route.gives: {"schema": {"type": "string", "contentMediaType": route.gives}}}
    elif route.is_list:
        told["content"] = {JSON: {"schema": schemas.of_list(route.gives)}}
    else:
        told["content"] = {JSON: {"schema": _answer_schema(route, schemas)}}
    if route.name == "listEvents":
        told["content"]["text/event-stream"] = {"schema": _EVENT}
    if "If-None-Match" in route.headers or "If-Match" in route.headers:
        told["headers"]["ETag"] = {"description": "Version of the resource.", "schema": {"type": "string"}}
    responses: dict[str, Any] = {} if route.only_creates else {"200": told}
    if route.creates:
        responses["201"] = {**told, "description": "Made."}
    if route.method == "GET" and (
        route.is_list or "If-None-Match" in route.headers or route.name in ("getDecision", "getEvent", "getTable")
    ):
        responses["304"] = {"description": "As the caller has it."}
    known = _PROBLEMS if route.method == "GET" else _PROBLEMS | _CONFLICTS
    if route.name == "backup":
        known = known | {"501": "This log cannot be copied."}
    responses |= {status: _problem(about, schemas) for status, about in known.items()}
    responses["default"] = _problem("Anything else that went wrong.", schemas)
    return responses


def _answer_schema(route: Route, schemas: _Schemas) -> dict[str, Any]:
    usual = schemas.of(route.gives)
    if route.method == "GET" or route.reach in _MACHINES or route.gives is None:
        return usual
    return {"anyOf": [usual, schemas.of(shapes.DryRun), schemas.of(shapes.Done)]}


def _problem(about: str, schemas: _Schemas) -> dict[str, Any]:
    return {"description": about, "content": {MEDIA_TYPE: {"schema": schemas.of(Problem)}}}
