"""Assigning tasks to kinds of devices, against all assignments tried one by one."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plenum.model.errors import FieldError
from plenum.planning.assignment import Assignment, AssignmentQuestion, Impossible, Task, assign, judge

KINDS = ("a", "b", "c")


@st.composite
def questions(draw: st.DrawFn) -> AssignmentQuestion:
    figure = st.integers(0, 9).map(float)
    tasks = []
    for i in range(draw(st.integers(1, 5))):
        kinds = draw(st.sets(st.sampled_from(KINDS), min_size=1))
        runs = {kind: (draw(figure), draw(figure)) for kind in sorted(kinds)}
        after = tuple(task.name for task in tasks if draw(st.booleans()))
        tasks.append(Task(name=f"t{i}", runs=runs, after=after, uses=draw(st.sampled_from([0.0, 1.0]))))
    pairs = [pair for pair in itertools.permutations(KINDS, 2) if draw(st.booleans())]
    return AssignmentQuestion(
        tasks=tasks,
        transfers={pair: (draw(figure), draw(figure)) for pair in pairs},
        latency_s=draw(st.sampled_from([5.0, 12.0, 25.0, math.inf])),
        capacity={"a": draw(st.sampled_from([0.0, 1.0, 9.0]))},
    )


def every(question: AssignmentQuestion) -> list[Assignment]:
    found = []
    for kinds in itertools.product(*(task.runs for task in question.tasks)):
        used = sum(task.uses for task, kind in zip(question.tasks, kinds, strict=True) if kind == "a")
        if used <= question.capacity["a"]:
            found.append(judge(question, {task.name: kind for task, kind in zip(question.tasks, kinds, strict=True)}))
    return found


@settings(max_examples=200, deadline=None)
@given(questions())
def test_no_assignment_is_better(question: AssignmentQuestion) -> None:
    able = [told for told in every(question) if told.latency_s <= question.latency_s]
    answer = assign(question)
    if not able:
        assert isinstance(answer, Impossible)
        least = min((told.latency_s for told in every(question)), default=math.inf)
        assert answer.least_latency_s == pytest.approx(least)
        return
    assert isinstance(answer, Assignment)
    assert answer.proven
    assert (answer.cost, answer.latency_s) == min((told.cost, told.latency_s) for told in able)


def test_search_is_bounded() -> None:
    tasks = [Task(name=f"t{i}", runs=dict.fromkeys(KINDS, (1.0, 1.0 + i % 3))) for i in range(40)]
    answer = assign(AssignmentQuestion(tasks=tasks), max_nodes=500)
    assert isinstance(answer, Assignment)
    assert not answer.proven


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ([], "must be 1 to 64"),
        ([Task(name="x", runs={})], "runs on 1 to"),
        ([Task(name="x", runs={"a": (1, 1)}), Task(name="x", runs={"a": (1, 1)})], "twice"),
        ([Task(name="x", runs={"a": (1, 1)}, after=("y",))], "does not come before"),
    ],
)
def test_what_cannot_be_meant(tasks: list[Task], words: str) -> None:
    with pytest.raises(FieldError, match=words):
        assign(AssignmentQuestion(tasks=tasks))
