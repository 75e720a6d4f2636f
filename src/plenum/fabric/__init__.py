"""What the network makes of a placement: bandwidth by level and the cost of collectives.

Way in: :func:`plenum.fabric.collectives.communication_cost`.
"""
