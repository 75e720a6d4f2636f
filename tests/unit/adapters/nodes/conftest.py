"""A local node in a folder of its own, and jobs for it that say what they see."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.patience import PATIENCE_S

from plenum.adapters.nodes.local import LocalDriver
from plenum.model.process import Process
from plenum.ports.nodes import Assignment, Fence, Report


class Node:
    """Drives a local node; ``reopen`` puts another driver in the place of the present one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fence = Fence(term=1)
        self.options: dict[str, Any] = {}
        self._driver: LocalDriver | None = None

    @property
    def driver(self) -> LocalDriver:
        if self._driver is None:
            self._driver = LocalDriver(self.folder, "n0", **self.options)
        return self._driver

    def close(self) -> None:
        if self._driver is not None:
            self._driver.close()
        self._driver = None

    def reopen(self) -> LocalDriver:
        self.close()
        return self.driver

    def start(self, run: str, *command: str, **fields: Any) -> None:
        process = {name: fields.pop(name) for name in ("env", "working_dir", "nice", "grace_s") if name in fields}
        fields = {"uid": 7, "slot": "w-0", "attempt": 1} | fields
        self.driver.start(
            Assignment(
                run=run, job="t/j", tenant="t", node="n0", role="w", rank=0,
                process=Process(command=command, **process), **fields,
            ),
            self.fence,
        )  # fmt: skip

    def python(self, run: str, code: str, **fields: Any) -> None:
        """Start a run of a few lines of Python."""
        self.start(run, sys.executable, "-I", "-S", "-B", "-c", code, **fields)

    def report(self, run: str) -> Report:
        return next(report for report in self.driver.observe() if report.run == run)

    def text(self, run: str, stream: str = "stdout") -> str:
        return self.driver.logs(run, stream, 0, 1 << 20).data.decode()

    def finish(self, run: str) -> Report:
        self.until(lambda: self.report(run).phase == "exited", lambda: self.driver.observe())
        return self.report(run)

    def await_text(self, run: str, text: str) -> str:
        self.until(lambda: text in self.text(run), lambda: (self.report(run), self.text(run), self.text(run, "stderr")))
        return self.text(run)

    def state(self, run: str) -> dict[str, Any]:
        return json.loads((self.folder / "runs" / run / "state.json").read_text())

    @staticmethod
    def until(happened: Callable[[], bool], seen: Callable[[], object] = lambda: "") -> None:
        give_up_s = time.monotonic() + PATIENCE_S
        while not happened():
            assert time.monotonic() < give_up_s, f"did not happen; seen: {seen()}"
            time.sleep(0.01)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "node")
    yield node
    assert node.driver.stop_all(0)
    node.close()
