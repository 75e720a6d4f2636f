"""One profile for all properties: derandomised, so that a run is the same everywhere; HYPOTHESIS_PROFILE=long digs deeper."""

import os

from hypothesis import HealthCheck, settings

quiet = tuple(HealthCheck)
settings.register_profile("plenum", max_examples=30, deadline=None, derandomize=True, suppress_health_check=quiet)
settings.register_profile("long", max_examples=1000, deadline=None, suppress_health_check=quiet, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "plenum"))
