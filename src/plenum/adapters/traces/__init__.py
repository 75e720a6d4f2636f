"""Readers of public traces: files in, values of :mod:`plenum.sim.trace` and :mod:`plenum.serving.workload` out.

Way in: :func:`~plenum.adapters.traces.openb.read_trace`, :func:`~plenum.adapters.traces.philly.read_jobs`, and for LLM requests
:func:`~plenum.adapters.traces.requests.read_requests`.
"""
