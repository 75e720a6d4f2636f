from __future__ import annotations

import numpy as np
import pytest

from plenum.model.errors import FieldError
from plenum.serving.workload import requests_of
from plenum.sim.serving import traffic
from plenum.sim.serving.chats import Chat, chats
from plenum.sim.serving.slices import first, scaled, selected, window, with_prefix


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def variation(arrivals: np.ndarray) -> float:
    gaps = np.diff(arrivals)
    return float(gaps.std() / gaps.mean())


PROCESSES = {
    "steady": (lambda r: traffic.steady(20, 500), 0.0),
    "poisson": (lambda r: traffic.poisson(r, 20, 500), 1.0),
    "bursty": (lambda r: traffic.bursty(r, 20, 500, 2.0), 2.0),
    "diurnal": (lambda r: traffic.diurnal(r, 20, 500, period_s=500, peak_s=250, swing=0.0), 1.0),
}


@pytest.mark.parametrize("name", PROCESSES)
def test_arrivals_have_their_rate_and_their_burstiness(name):
    make, expected = PROCESSES[name]
    arrivals = make(rng())
    assert len(arrivals) / 500 == pytest.approx(20, rel=0.1)
    assert (np.diff(arrivals) >= 0).all()
    assert arrivals[0] >= 0
    assert arrivals[-1] < 500
    assert variation(arrivals) == pytest.approx(expected, rel=0.1, abs=1e-9)
    assert (make(rng()) == arrivals).all(), "the same seed, the same traffic"


def test_switching_traffic_is_burstier_than_poisson_and_keeps_its_mean():
    arrivals = traffic.switching(rng(), [2.0, 40.0], [30.0, 10.0], 20_000)
    assert len(arrivals) / 20_000 == pytest.approx((2 * 30 + 40 * 10) / 40, rel=0.1)
    assert variation(arrivals) > 1.5


def test_the_day_has_its_peak():
    arrivals = traffic.diurnal(rng(), 10, 4000, swing=0.8, period_s=4000, peak_s=1000)
    counts, _ = np.histogram(arrivals, 4, (0, 4000))
    assert counts[[0, 1]].min() > 2 * counts[[2, 3]].max()
    assert counts.sum() / 4000 == pytest.approx(10, rel=0.05)


def test_lengths():
    drawn = traffic.lognormal(rng(), 50_000, 800, 1.5)
    assert drawn.mean() == pytest.approx(800, rel=0.05)
    assert drawn.std() / drawn.mean() == pytest.approx(1.5, rel=0.1)
    assert drawn.min() >= 1
    assert traffic.lognormal(rng(), 1000, 800, 2.0, most=1000).max() == 1000
    assert traffic.fixed(3, 7).tolist() == [7, 7, 7]
    seen = np.array([1, 2, 3])
    assert set(seen[traffic.empirical(rng(), 100, seen)]) == {1, 2, 3}


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: traffic.poisson(rng(), 0, 10),
        lambda: traffic.poisson(rng(), 1, float("inf")),
        lambda: traffic.poisson(rng(), 1e6, 1e6),
        lambda: traffic.bursty(rng(), 1, 10, 0),
        lambda: traffic.diurnal(rng(), 1, 10, swing=2),
        lambda: traffic.switching(rng(), [1], [1], 10),
        lambda: traffic.lognormal(rng(), 3, 0, 1),
        lambda: traffic.empirical(rng(), 3, np.zeros(0, int)),
    ],
)
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(FieldError):
        wrong()


def blocks_of(requests, i: int) -> list[int]:
    return requests.block_id[requests.block_offset[i] : requests.block_offset[i + 1]].tolist()


def test_conversations_grow_and_find_their_prefixes_again():
    described = Chat(turns=5, system_tokens=1200, systems=2, user_tokens=300, output_tokens=200)
    talk = chats(rng(), traffic.poisson(rng(2), 1, 200), described, block_tokens=100)
    assert talk.block_id.max() + 1 == len(set(talk.block_id))
    follow = np.flatnonzero(talk.after >= 0)
    assert len(follow) / len(talk) == pytest.approx(0.8, abs=0.06)
    systems = {tuple(blocks_of(talk, i)[:12]) for i in range(len(talk))}
    assert len(systems) == 2
    for i in follow:
        before = talk.after[i]
        assert before < i
        assert talk.session[before] == talk.session[i]
        assert talk.prompt_tokens[i] > talk.prompt_tokens[before] + talk.output_tokens[before]
        mine, theirs = blocks_of(talk, int(i)), blocks_of(talk, int(before))
        assert mine[: len(theirs)] == theirs
        assert len(mine) == talk.prompt_tokens[i] // 100
    others = [set(blocks_of(talk, int(i))[12:]) for i in np.flatnonzero(talk.after < 0)]
    assert sum(map(len, others)) == len(set().union(*others)), "nothing is shared but the system prompts"


def test_a_conversation_ends_at_the_context_limit():
    talk = chats(rng(), np.arange(20.0), Chat(turns=30, most_tokens=4000, user_tokens=500))
    assert talk.prompt_tokens.max() <= 4000
    assert (talk.after[talk.after >= 0] == np.flatnonzero(talk.after >= 0) - 1).all()


def small():
    return requests_of(
        np.array([0.0, 1, 2, 3, 4]),
        np.full(5, 20),
        np.arange(1, 6),
        session=np.array([7, 8, 7, 8, 9]),
        after=np.array([-1, -1, 0, 1, -1], np.int32),
        block_offset=np.array([0, 2, 3, 5, 6, 8]),
        block_id=np.array([0, 1, 2, 0, 1, 2, 0, 3]),
        block_tokens=10,
    )


def test_parts_of_a_trace_keep_what_belongs_together():
    part = selected(small(), np.array([True, False, True, True, True]))
    assert part.output_tokens.tolist() == [1, 3, 4, 5]
    assert part.after.tolist() == [-1, 0, -1, -1]
    assert [blocks_of(part, i) for i in range(4)] == [[0, 1], [0, 1], [2], [0, 3]]
    assert window(small(), 1.0, 3.0).arrival_s.tolist() == [0.0, 1.0]
    assert first(small(), 2).after.tolist() == [-1, -1]


def test_more_load_is_the_same_requests_in_less_time():
    dense = scaled(small(), 1.25)
    assert dense.arrival_s.tolist() == pytest.approx([0, 0.8, 1.6, 2.4, 3.2])
    assert (dense.block_id == small().block_id).all()


def test_less_load_is_fewer_conversations_each_of_them_whole():
    talk = chats(rng(), traffic.poisson(rng(2), 2, 500), Chat())
    thin = scaled(talk, 0.3)
    counts = np.bincount(talk.session, minlength=talk.session.max() + 1)
    kept = np.bincount(thin.session, minlength=talk.session.max() + 1)
    assert ((kept == counts) | (kept == 0)).all()
    assert (kept > 0).sum() / (counts > 0).sum() == pytest.approx(0.3, abs=0.005)
    assert (scaled(talk, 0.3).arrival_s == thin.arrival_s).all()
    assert thin.arrival_s.max() > 450
    with pytest.raises(FieldError):
        scaled(talk, 0)


def test_a_common_prefix_is_one_that_a_cache_finds():
    made = with_prefix(requests_of(np.zeros(3), np.array([5000, 2100, 10]), np.ones(3)), 4000)
    assert made.block_tokens == 48
    assert np.diff(made.block_offset).tolist() == [83, 43, 0]
    assert made.block_id[:83].tolist() == list(range(83))
    assert made.block_id[83:].tolist() == list(range(43))
    assert not len(with_prefix(made, 15).block_id), "less than a block is none"
