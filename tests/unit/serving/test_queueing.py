from __future__ import annotations

import numpy as np
import pytest

from plenum.serving.curves import decode_steps, steps_of
from plenum.serving.queueing import BATCH, BOTH, DECODE, FIGURES, TPOT, TTFT, Load, pool_under
from plenum.serving.steps import StepModel

OUTPUT = 101.0


def load(prompt: float = 1000.0) -> Load:
    return Load(prompt, 0.0, prompt, OUTPUT, OUTPUT, 0.0, 1.0, 0.01, 2.33)


def under(steps: StepModel, role: int, rate: float, servers: float = 1.0, **given: float) -> tuple[bool, np.ndarray]:
    out = np.zeros(FIGURES)
    chunk, advance = given.get("chunk", 8192.0), given.get("advance", 1.0)
    return pool_under(steps.coefficients, role, servers, rate, load(), chunk, advance, True, out), out


@pytest.mark.parametrize("busy", [0.1, 0.5, 0.9, 0.97])
def test_iterations_that_grow_with_the_batch_make_a_processor_sharing_queue(busy: float) -> None:
    """Iterations of a + b n: E[n] = rate S (a + b) / (1 - rate S b), whatever the answers' distribution (Cohen 1979)."""
    a, b, answer = 0.01, 0.001, OUTPUT - 1
    rate = busy / (answer * b)
    steady, out = under(decode_steps(fixed_s=a, sequence_s=b), DECODE, rate)
    others = rate * answer * (a + b) / (1 - busy)
    assert steady
    assert out[BATCH] - 1 == pytest.approx(others, rel=0.02)
    assert out[TPOT] == pytest.approx(a + b * (others + 1), rel=0.02)


def test_more_than_can_be_served_has_no_figures() -> None:
    assert not under(decode_steps(fixed_s=0.01, sequence_s=0.001), DECODE, 1.05 / ((OUTPUT - 1) * 0.001))[0]


def test_prompts_stretch_iterations_by_their_share_of_the_time() -> None:
    """A prompt of 1,000 tokens takes 50 ms besides; at four a second they take a fifth of the time of many instances, a bit more of one."""
    steps = steps_of(linear_weights_s=0.01, prefill_pair_s=0.05 / (1000 * 1001 / 2))
    steady, out = under(steps, BOTH, 4.0)
    assert steady
    assert out[TPOT] == pytest.approx(0.01 / 0.8, rel=0.02)
    assert out[TTFT] > 0.06


def test_tokens_that_are_drafted_share_iterations() -> None:
    steps = decode_steps(fixed_s=0.01)
    plain, drafted = (under(steps, DECODE, 1.0, advance=advance)[1][TPOT] for advance in (1.0, 2.5))
    assert plain / drafted == pytest.approx(2.5)
