"""Nodes that really run things.

Way in: :class:`~plenum.adapters.nodes.local.LocalDriver`, which runs replicas as processes of this host, each watched over by a
process of its own (``shim.py``) that outlives the driver.
"""
