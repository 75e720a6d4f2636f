"""Endpoints: a model's revisions and their replicas, how they come into use, grow, shrink and go.

Way in: :func:`~plenum.control.endpoints.reconcile.tend_endpoints` (a state and what gateways saw in, facts out),
:func:`~plenum.control.endpoints.table.table_of` (what gateways are told), :mod:`~plenum.control.endpoints.commands`.
"""
