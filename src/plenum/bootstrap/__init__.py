"""Wires the rooms together from one configuration; the only place that knows every adapter.

Way in: :func:`~plenum.bootstrap.server.serve` (a control plane), :func:`~plenum.bootstrap.agent.run_agent` (a node agent).
"""
