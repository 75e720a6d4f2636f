"""Running a simulated service: to its end at once, or in slices."""

from __future__ import annotations

import numpy as np

from plenum.model.errors import InvariantError, PlenumError
from plenum.serving.pools import Serving
from plenum.serving.workload import Requests
from plenum.sim.serving import fields as f
from plenum.sim.serving.autoscale import Scaler
from plenum.sim.serving.build import world_of
from plenum.sim.serving.engine import run
from plenum.sim.serving.outcome import Outcome, outcome_of
from plenum.sim.serving.policies import Policies
from plenum.sim.serving.world import World

MAX_WORK = 5_000_000_000
"""Iterations and events of one run at most: about an hour."""

SLICE = 20_000_000
"""Iterations and events of one call into the loop: a few seconds."""


class SimulationLimitError(PlenumError):
    """A run that is longer than the simulator goes on for."""

    code = "simulation.limit"


class Simulation:
    """A run that goes on slice by slice, so that it can be watched and given up.

    Parameters
    ----------
    requests, serving, policies
        What arrives, what serves, and how.
    seed
        Of everything random; equal seeds give equal runs.
    max_work
        Iterations and events at most.

    Raises
    ------
    FieldError
        A set-up that cannot be meant.
    """

    def __init__(
        self,
        requests: Requests,
        serving: Serving,
        policies: Policies | None = None,
        *,
        seed: int,
        max_work: int = MAX_WORK,
    ) -> None:
        self._requests, self._serving = requests, serving
        self._policies = policies or Policies()
        self._world = world_of(requests, serving, self._policies, seed)
        self._max_work = max_work
        self._scaler = Scaler(self._policies.scaling, serving) if self._policies.scaling else None
        self.done = False

    @property
    def over(self) -> int:
        """Requests that have been answered or refused."""
        return int(self._world.count[f.OVER])

    def advance(self, work: int = SLICE) -> bool:
        """Go on for about so many iterations and events; True once the run is over.

        Raises
        ------
        SimulationLimitError
            The run takes too many of them.
        """
        w = self._world
        stop = min(int(w.count[f.WORK]) + work, self._max_work)
        while not self.done and w.count[f.WORK] < stop:
            status = run(w, stop - int(w.count[f.WORK]))
            if status == f.ALL_OVER:
                _strand(w)
                self.done = True
            elif status == f.TICKED and self._scaler:
                self.done = not self._scaler.decide(w)
            elif status == f.OUT_OF_EVENTS:
                raise SimulationLimitError(
                    "too many requests were sent from failure to failure; let fewer instances fail"
                )
            elif status == f.BACKWARDS:
                raise InvariantError("the simulated clock ran backwards: step times shrink as contexts grow")
        if not self.done and w.count[f.WORK] >= self._max_work:
            sentence = (
                f"after {int(w.count[f.WORK]):,} steps {self.over:,} of {len(self._requests):,} requests are over"
            )
            raise SimulationLimitError(f"{sentence}; simulate fewer requests or raise max_work")
        return self.done

    def outcome(self) -> Outcome:
        """Return what the run has come to so far."""
        return outcome_of(self._world, self._requests, self._serving.pools)


def simulate(
    requests: Requests, serving: Serving, policies: Policies | None = None, *, seed: int, max_work: int = MAX_WORK
) -> Outcome:
    """Simulate a service, iteration by iteration, until every request is over.

    Parameters
    ----------
    requests
        R requests.
    serving
        Pools of instances and the links between them.
    policies
        How it is run; None: least-loaded routing, preempted caches computed anew.
    seed
        Of everything random; equal seeds give equal runs.
    max_work
        Iterations and events at most.

    Returns
    -------
    Outcome
        Arrays for each request and instance; :meth:`Outcome.report` sums them up.

    Raises
    ------
    FieldError
        A set-up that cannot be meant.
    SimulationLimitError
        The run takes too many steps.

    Notes
    -----
    Time and energy of every iteration come from :func:`plenum.serving.steps.step`. An instance whose batch only decodes is run ahead,
    one iteration after another, to where somebody looks at it; the result is that of stepping all instances together.
    """
    simulation = Simulation(requests, serving, policies, seed=seed, max_work=max_work)
    while not simulation.advance():
        pass
    return simulation.outcome()


def _strand(w: World) -> None:
    """Refuse what nobody came to serve."""
    left = np.flatnonzero(np.isin(w.ri[:, f.STATE], (f.FUTURE, f.WAITING, f.PENDING)))
    w.ri[left, f.STATE] = f.REFUSED
    w.ri[left, f.REASON] = f.NO_INSTANCE
    w.rf[left, f.FINISHED] = np.where(np.isnan(w.rf[left, f.READY]), np.nan, w.clock[f.NOW])
    w.count[f.OVER] += len(left)
    w.count[f.IN_SYSTEM] = 0
    if w.count[f.OVER] != len(w.ri):
        raise InvariantError("the run is over while requests are still being served: nobody wakes whoever serves them")
