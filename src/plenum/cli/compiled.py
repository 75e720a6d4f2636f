"""Load compiled code before the work begins: what takes long after that is the work, and the bar and the notes are about it."""

from __future__ import annotations

from plenum.cli.progress import MODEL, SIMULATOR, compile_note

_MODEL, _HARDWARE = "SmolLM2-135M", "H100"


def load_model() -> None:
    """Load the performance model, or compile it and say so."""
    from plenum.cli.serving_cluster import Described, instance_of
    from plenum.serving.predict import predict

    with compile_note(MODEL):
        predict(instance_of(Described(model=_MODEL, hardware=_HARDWARE)), isl=100.0, osl=10.0, concurrency=1.0)


def load_simulator() -> None:
    """Load the serving simulator, or compile it and say so."""
    import numpy as np

    from plenum.cli.serving_cluster import Described, instance_of, serving_of
    from plenum.serving.workload import requests_of
    from plenum.sim.serving import Simulation

    one = np.ones(1, np.int32)
    instance = instance_of(Described(model=_MODEL, hardware=_HARDWARE))
    with compile_note(SIMULATOR):
        serving = serving_of(instance, replicas=1, prefill=None, decode=None)
        Simulation(requests_of(np.zeros(1), one, one), serving, seed=0).advance()
