"""What is said of an endpoint."""

from __future__ import annotations

from tests.unit.control.endpoints.city import CHAT, City, changed, chat

from plenum.control.endpoints.status import status_of


def test_why_replicas_do_not_start_stays_said_between_attempts():
    city = City(1)
    city.apply(chat(arguments=("broken",)))
    said = set()
    for _ in range(20):
        city.run(1)
        said.add(status_of(city.state, city.endpoint()).message)
    for often in ("once", "2 times"):
        assert any(f"did not start, {often} so far" in each and "exit code 1" in each for each in said), said
    assert status_of(city.state, city.endpoint()).message

    city.apply(changed(chat()))
    city.run(60)
    assert "did not start" not in status_of(city.state, city.endpoint(CHAT)).message


def test_what_is_scaled_to_what_has_places_waits_no_longer():
    city = City(1)
    city.apply(chat(20, 20))
    city.run(5)
    here = len(city.replicas())
    assert 0 < here < 20
    assert "places for" in status_of(city.state, city.endpoint()).message
    city.apply(chat(here, here))
    city.run(5)
    status = status_of(city.state, city.endpoint())
    assert (status.phase, "places for" in status.message) == ("Ready", False)


def test_what_no_other_try_helps_is_said_to_have_failed_and_seldom_tried():
    city = City(1)
    city.apply(chat(arguments=("hopeless",)))
    city.run(60)
    status = status_of(city.state, city.endpoint())
    assert status.phase == "Failed"
    assert "tried again every 5 minutes" in status.message
    assert "exit code 65" in status.message
    (unit,) = city.state.jobs["red/chat-r1"].units.values()
    assert unit.attempt == 1
    city.run(300)
    assert unit.attempt == 2

    city.apply(chat())
    city.run(60)
    assert status_of(city.state, city.endpoint()).phase == "Ready"
    city.apply(chat(arguments=("hopeless",)))
    city.run(60)
    status = status_of(city.state, city.endpoint())
    assert (status.phase, status.failed) == ("Ready", 3), "gone back from at once, not after three tries"
