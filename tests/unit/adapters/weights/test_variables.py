"""Where weights come from and with whose credentials is the node's business: its engine hosts get it, other work and engines do not."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
from tests.patience import PATIENCE_S

from plenum.adapters.nodes.local import LocalDriver
from plenum.adapters.weights.variables import CREDENTIALS, forget_credentials, staging_variables
from plenum.model.process import Process
from plenum.ports.nodes import Assignment, Fence

TELL = """
import json, os, sys
with open(sys.argv[1] + ".new", "w") as file:
    json.dump(sorted(os.environ), file)
os.rename(sys.argv[1] + ".new", sys.argv[1])
"""


@pytest.mark.parametrize("engine_host", [True, False])
def test_engine_hosts_alone_get_the_nodes_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine_host: bool
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_node")
    monkeypatch.setenv("PLENUM_VLLM", "/opt/vllm serve")
    monkeypatch.setenv("OPERATORS_OWN", "secret")
    told = tmp_path / "told.json"
    process = Process(command=(sys.executable, "-c", TELL, str(told)), notify=engine_host, restarts=0)
    order = Assignment(
        run="r1", job="default/e", uid=1, tenant="default", node="n0", slot="a-0", attempt=1, role="a", rank=0, process=process
    )  # fmt: skip
    driver = LocalDriver(tmp_path / "node", "n0")
    try:
        driver.start(order, Fence(term=1, position=1))
        deadline = time.monotonic() + PATIENCE_S
        while not told.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        names = json.loads(told.read_bytes())
    finally:
        driver.stop_all(1.0)
        driver.close()
    assert ("HF_TOKEN" in names) == engine_host
    assert ("PLENUM_VLLM" in names) == engine_host
    assert "OPERATORS_OWN" not in names


def test_what_an_engine_gets_has_no_credentials() -> None:
    env = dict.fromkeys(CREDENTIALS, "secret") | {"HF_ENDPOINT": "http://mirror", "PATH": "/bin"}
    assert set(staging_variables(env)) == {*CREDENTIALS, "HF_ENDPOINT"}
    forget_credentials(env)
    assert env == {"HF_ENDPOINT": "http://mirror", "PATH": "/bin"}
