from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from tests.unit.control.cloud import Cloud, imitation, job

from plenum.cli.news import News
from plenum.control.protocol import SyncRequest
from plenum.ports.nodes import Report


def test_the_story_of_what_ran_for_an_instant_is_that_of_what_ran_for_long(capsys) -> None:
    cloud = Cloud(2)
    cloud.run(1)
    news = News(cast(Any, SimpleNamespace(state=cloud.state)))
    cloud.submit(job(), imitation())
    cloud.work()
    cloud.clock.advance(1.0)
    (run,) = cloud.state.jobs["red/j"].runs()
    over = Report(run=run.id, phase="exited", exit_code=0, started_at=50.0, ended_at=50.5)
    cloud.controller.append(cloud.controller.reported(SyncRequest(agent="a", nodes=("n0", "n1"), reports=(over,))))
    cloud.work()
    news._tell("red/j", cloud.clock.now())
    told = [line.split(maxsplit=2)[1:] for line in capsys.readouterr().out.splitlines()]
    assert told == [["red/j", f"running    on {run.node}"], ["red/j", "succeeded  after 0.5s"]]
