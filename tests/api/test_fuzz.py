"""The OpenAPI document against the application.

Whatever fits it, and whatever does not, is answered as it says, and never by a fault of ours.
"""

from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.api.lab import Lab

from plenum.api import ApiSettings, Rate
from plenum.api.openapi import document

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]

SCHEMA = schemathesis.openapi.from_dict(document())
OPERATIONS = [result.ok() for result in SCHEMA.get_all_operations()]
AGENTS = ("joinAgent", "syncAgent")
WITHOUT = ("backup",)
"""There is nothing to back up in memory, which the document says with 501: a server's error to the checks."""

EXAMPLES = 10
FEWER = 3
"""Of tasks and endpoints, which go the ways of training jobs."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    laboratory = Lab(ApiSettings(stream_s=0.02, follow_pause_s=0.01, failure_rate=Rate(per_s=1e6, burst=10**6)))
    laboratory.apply_fleet()
    laboratory.submit("fuzzed", plural="trainingjobs", run={"simulate": {"duration": "1h"}})
    laboratory.wait_for_phase("research/fuzzed", "Running")
    yield laboratory
    laboratory.close()


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["fitting", "unfitting"])
@pytest.mark.parametrize(
    "operation", OPERATIONS, ids=[operation.definition.raw["operationId"] for operation in OPERATIONS]
)
def test_every_operation_answers_as_the_document_says(lab: Lab, operation, mode: GenerationMode) -> None:
    name = operation.definition.raw["operationId"]
    if name in WITHOUT:
        pytest.skip("no backup of what is in memory")
    if mode is GenerationMode.NEGATIVE and name in ("healthz", "readyz"):
        pytest.skip("there is nothing to get wrong")
    who = {"joinAgent": "join", "syncAgent": "agent"}.get(name, "root")

    # Fixed examples: a suite that passes today passes tomorrow; longer hunts are for whoever changes the seed.
    @seed(17)
    @settings(
        max_examples=FEWER if name.endswith(("Task", "Endpoint")) else EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def fuzz(data: st.DataObject) -> None:
        case = data.draw(operation.as_strategy(generation_mode=mode))
        known = {
            "tenant": "research",
            "name": "fuzzed",
            "agent": "agent-1",
            "node": "n1",
            "fleet": "hall",
            "user": "max",
        }
        # Names drawn at random are names of nothing: half of the time the path leads somewhere.
        if case.path_parameters and data.draw(st.booleans()):
            case.path_parameters.update({key: known[key] for key in case.path_parameters if key in known})
        case.validate_response(sent(lab, case, who), checks=CHECKS)

    fuzz()


def sent(lab: Lab, case: schemathesis.Case, who: str) -> httpx.Response:
    """Send a case as it would go over the wire."""
    wanted = case.as_transport_kwargs(base_url="https://plenum.test")
    known = {
        key: wanted[key]
        for key in ("method", "url", "headers", "params", "data", "json", "files", "cookies")
        if key in wanted
    }
    prepared = requests.Request(**known).prepare()
    url = urlsplit(prepared.url or "")
    target = url.path.encode() + (b"?" + url.query.encode() if url.query else b"")
    headers = {key: value for key, value in prepared.headers.items() if key.lower() != "authorization"}
    headers["authorization"] = f"Bearer {lab.tokens[who]}"
    body = prepared.body or b""
    if not isinstance(body, (bytes, str)):
        body = b"".join(body)
    address = httpx.URL("https://plenum.test").copy_with(raw_path=target)
    request = httpx.Request(prepared.method or "GET", address, headers=headers, content=body)
    return lab.run(lab._client.send(request))
