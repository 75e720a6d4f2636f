"""Deterministic simulation of the whole control plane: one seed, one run, every invariant checked after every step."""

from plenum.sim.chaos.run import Verdict, run_seed
from plenum.sim.chaos.world import FAULTS, Chaos

__all__ = ["FAULTS", "Chaos", "Verdict", "run_seed"]
