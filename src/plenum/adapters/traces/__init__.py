"""Readers of public traces: files in, values of :mod:`plenum.sim.trace` out.

Way in: :func:`~plenum.adapters.traces.openb.read_trace`, :func:`~plenum.adapters.traces.philly.read_jobs`.
"""
