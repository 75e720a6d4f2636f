"""Manifests: what people write in YAML, checked and turned into the nouns of the model, and back.

Way in: :func:`~plenum.adapters.manifests.fleet.read_fleet`, :func:`~plenum.adapters.manifests.fleet.parse_fleet`,
:func:`~plenum.adapters.manifests.dump.dump_fleet`, :func:`~plenum.adapters.manifests.workloads.read_workloads`.
"""
