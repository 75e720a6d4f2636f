"""What ``plenum up`` says once a model is ready."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import click

from plenum.bootstrap.gateway import Address
from plenum.cli.news import hint
from plenum.cli.up_models import how_to_ask, to_ask
from plenum.control.endpoints.state import EndpointRecord, Revision, Sized
from plenum.control.state import State
from plenum.model.endpoint import Endpoint


def test_a_gateway_that_had_to_move_says_so_before_it_says_how_to_ask() -> None:
    found = cast(Any, SimpleNamespace(id="default/chat", spec=SimpleNamespace(model_name="chat", arguments=())))
    address = Address(pid=1, port=8081, url="http://127.0.0.1:8081", servers=())
    moved = click.unstyle(how_to_ask(found, address, "plk_x", 8080))
    assert moved.startswith("Port 8080 was taken, so the gateway has moved to port 8081 and stays there; ")
    assert "names another.\n\nchat is ready." in moved
    assert "bench chat" in moved
    assert how_to_ask(found, address, "plk_x", 8081) == click.style("chat", bold=True) + moved.partition("\nchat")[2]


def test_the_model_that_people_know_is_shown_first_and_waited_for_a_while() -> None:
    state = State()

    def served(name: str, uid: int, *, up: bool = True, model: str = "/w", arguments: tuple[str, ...] = ()) -> None:
        spec = Endpoint(
            name=name, model=model, engine="vllm", arguments=arguments, attached=("http://127.0.0.1:9",) if up else ()
        )
        revision = Revision(
            number=1, spec=spec, generation=1, phase="serving", started_at=0.0, pools={"serve": Sized(replicas=1)}
        )
        state.endpoints[spec.id] = EndpointRecord(
            id=spec.id, uid=uid, version=1, generation=1, spec=spec, manifest={}, created_at=0.0, asked=1, actor="x",
            serving=1, last=1, wanted={"serve": 1}, revisions={1: revision},
        )  # fmt: skip

    def shown(*, patient: bool = True) -> str:
        found = to_ask(state, patient=patient)
        return found.id if found else ""

    assert shown() == ""
    served("vectors", 1, model="smollm2", arguments=("--embeddings",))
    assert shown() == "default/vectors"
    served("big", 2)
    assert shown() == "default/big"
    served("chat", 3, model="smollm2", up=False)
    assert (shown(), shown(patient=False)) == ("", "default/big")
    served("chat", 3, model="smollm2")
    assert shown() == "default/chat"


def test_what_is_served_already_is_not_suggested() -> None:
    assert "serve smollm2" in hint("", "")
    assert "serve smollm2" not in hint("", "", is_served=True)
