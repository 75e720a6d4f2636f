import pytest

from plenum.sim.clock import VirtualClock


def test_time_passes_only_when_told_to() -> None:
    clock = VirtualClock(1_000.0)
    clock.advance(2.5)
    assert (clock.now(), clock.monotonic()) == (1_002.5, 2.5)


def test_a_jump_moves_the_wall_clock_alone() -> None:
    clock = VirtualClock(1_000.0)
    clock.jump(-100)
    assert (clock.now(), clock.monotonic()) == (900.0, 0.0)


def test_time_does_not_pass_backwards() -> None:
    with pytest.raises(ValueError, match="backwards"):
        VirtualClock().advance(-1)
