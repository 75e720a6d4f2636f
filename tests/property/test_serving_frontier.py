"""The planner's frontier against brute force, and its queue against M/M/c as Erlang has it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plenum.planning.serving.points import undominated
from plenum.serving.queueing import waiting


def beaten(values: np.ndarray, row: int) -> bool:
    """Whether another row is nowhere worse and somewhere better, or equal and earlier."""
    for other in range(len(values)):
        if other == row or not (values[other] <= values[row]).all():
            continue
        if (values[other] < values[row]).any() or other < row:
            return True
    return False


@given(
    st.integers(1, 4).flatmap(
        lambda columns: st.lists(
            st.lists(st.integers(0, 5).map(float), min_size=columns, max_size=columns), min_size=0, max_size=40
        )
    )
)
def test_the_frontier_is_what_brute_force_leaves(rows: list[list[float]]) -> None:
    values = np.array(rows, np.float64).reshape(len(rows), len(rows[0]) if rows else 1)
    expected = [not beaten(values, row) for row in range(len(values))]
    assert undominated(values).tolist() == expected


@given(st.integers(1, 40), st.floats(0.01, 0.97), st.floats(0.001, 10.0))
def test_exponential_service_waits_as_in_m_m_c(servers: int, busy: float, service: float) -> None:
    offered = servers * busy
    below = sum(offered**n / math.factorial(n) for n in range(servers))
    full = offered**servers / math.factorial(servers) / (1 - busy)
    chance = full / (below + full)
    mean, tail = waiting(float(servers), busy, service, 1.0, 1.0, 0.01)
    assert mean == pytest.approx(chance * service / (servers * (1 - busy)), rel=1e-6)
    # P(W > t) = chance exp(-servers (1 - busy) t / service)
    assert tail == 0.0 or chance * math.exp(-servers * (1 - busy) * tail / service) == pytest.approx(0.01, rel=1e-6)


@given(st.floats(0.05, 0.95))
def test_deterministic_service_waits_half_as_long(busy: float) -> None:
    random, _ = waiting(1.0, busy, 1.0, 1.0, 1.0, 0.01)
    fixed, _ = waiting(1.0, busy, 1.0, 0.0, 1.0, 0.01)
    assert fixed == pytest.approx(random / 2)
