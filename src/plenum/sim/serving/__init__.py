"""Simulated LLM serving: iteration by iteration, in compiled loops.

Way in: :func:`simulate`, or :class:`Simulation` to watch a run go on; :class:`Policies` says how the service is run.

::

    arrive ──► admission ──► routing ──► queue ──► batch (prefill, decode) ──► done
                                           ▲          │ preempted      │ prefilled elsewhere
                                           └──────────┘ ◄── transfer ──┘

``fields`` names the rows of the state, ``world`` holds it, ``build`` makes it, ``engine`` is the event loop, ``flow`` the way of a
request (``choosing``, ``judging`` and ``failing`` its turns), ``iteration`` what an instance does, ``admit``, ``batch`` and ``memory``
who is in its batch and who has which KV blocks, ``autoscale`` how many instances there are.
"""

from plenum.sim.serving.fields import REASONS
from plenum.sim.serving.outcome import Instances, Outcome
from plenum.sim.serving.policies import Admission, Failure, Policies, Scaling
from plenum.sim.serving.simulate import Simulation, SimulationLimitError, simulate

__all__ = [
    "REASONS",
    "Admission",
    "Failure",
    "Instances",
    "Outcome",
    "Policies",
    "Scaling",
    "Simulation",
    "SimulationLimitError",
    "simulate",
]
