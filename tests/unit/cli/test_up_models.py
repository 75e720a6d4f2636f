"""What ``plenum up`` says once a model is ready."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import click

from plenum.bootstrap.gateway import Address
from plenum.cli.up_models import how_to_ask


def test_a_gateway_that_had_to_move_says_so_before_it_says_how_to_ask() -> None:
    found = cast(Any, SimpleNamespace(id="default/chat", spec=SimpleNamespace(model_name="chat")))
    address = Address(pid=1, port=8081, url="http://127.0.0.1:8081", servers=())
    moved = click.unstyle(how_to_ask(found, address, "plk_x", 8080))
    assert moved.startswith("Port 8080 was taken, so the gateway has moved to port 8081 and stays there; ")
    assert "names another.\n\nchat is ready." in moved
    assert "bench chat" in moved
    assert how_to_ask(found, address, "plk_x", 8081) == click.style("chat", bold=True) + moved.partition("\nchat")[2]
