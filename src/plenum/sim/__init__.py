"""Deterministic simulation: traces replayed against a placement engine; no clock, no files, one seed one run.

Way in: :func:`~plenum.sim.arrivals.replay_arrivals` (nothing departs), :func:`~plenum.sim.jobs.replay_jobs`
(arrivals and departures), :func:`~plenum.sim.synthetic.synthetic_trace` (a generated stand-in for the public trace).
"""
