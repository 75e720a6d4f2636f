"""From descriptions to arrays: builds fleets, checks them, and compiles a view into what solvers read.

Way in: :class:`FleetBuilder` (parts in, :class:`~plenum.model.Fleet` out), :func:`findings` (what is wrong with
a fleet), :class:`Cluster` (the fixed arrays of a fleet) and :class:`State` (what is free in it).
"""
