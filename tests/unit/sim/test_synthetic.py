import numpy as np
import pytest

from plenum.sim.synthetic import synthetic_trace, training_fleet


@pytest.fixture(scope="module")
def trace():
    return synthetic_trace((42, 43))


def test_fleet_has_the_published_totals(trace) -> None:
    assert (trace.fleet.n_nodes, trace.fleet.n_gpus, len(trace.fleet.models)) == (1213, 6212, 7)


def test_demand_reaches_130_percent(trace) -> None:
    demand = np.array([request.total_gpu_milli for request in trace.requests])
    for arrivals in trace.arrivals.values():
        asked = demand[trace.request_of[arrivals.order]].sum()
        assert 1.30 <= asked / 6_212_000 < 1.302


def test_classes_are_those_of_openb(trace) -> None:
    pods = [trace.requests[i] for i in trace.request_of]
    assert len(pods) == 8152
    share = sum(p.gpus == 1 and p.gpu_milli < 1000 for p in pods) / len(pods)
    assert share == pytest.approx(0.378, abs=0.02)
    assert sum(p.gpus == 0 for p in pods) / len(pods) == pytest.approx(0.134, abs=0.02)
    assert sum(p.gpus == 8 for p in pods) / len(pods) == pytest.approx(0.0054, abs=0.003)
    assert not any(p.gpu_models for p in pods)


def test_seeds_differ_and_repeat(trace) -> None:
    again = synthetic_trace((42,))
    assert np.array_equal(trace.arrivals[42].order, again.arrivals[42].order)
    assert np.array_equal(trace.arrivals[42].node_rank, again.arrivals[42].node_rank)
    assert not np.array_equal(trace.arrivals[42].order[:100], trace.arrivals[43].order[:100])


def test_a_share_of_single_gpu_pods_can_name_models() -> None:
    named = synthetic_trace((1,), named_model_share=0.2)
    singles = [r for r in (named.requests[i] for i in named.request_of) if r.gpus == 1]
    assert sum(bool(r.gpu_models) for r in singles) / len(singles) == pytest.approx(0.2, abs=0.02)


def test_training_fleet_has_leaves_of_sixteen_nodes() -> None:
    fleet = training_fleet(nodes=40)
    assert (fleet.n_nodes, fleet.n_gpus) == (40, 320)
    assert sum(name.startswith("leaf-") for name in fleet.domain_name) == 3
