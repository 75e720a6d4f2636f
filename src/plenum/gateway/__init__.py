"""The data plane of inference: one OpenAI-compatible address in front of every endpoint's replicas.

It decides with the functions that the simulator decides with (:mod:`plenum.serving.routing`, ``admission``, ``offload``, ``prefix``), gets
what it needs to know as a :class:`~plenum.ports.gateway.Table`, and reports loads and usage back.
"""
