"""What the control plane asks of the world: Protocols and the plain values that cross them.

:mod:`~plenum.ports.clock`, :mod:`~plenum.ports.store` (the event log) and :mod:`~plenum.ports.nodes` (what runs replicas). Each has
one contract suite in ``tests/contracts`` that every implementation passes, fakes included.
"""
