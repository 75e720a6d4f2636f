"""Manifests: what people write in YAML or JSON, checked and turned into the nouns of the model, and back.

Way in: :func:`~plenum.adapters.manifests.resources.parse_manifests` and
:func:`~plenum.adapters.manifests.resources.parse_manifest` (any kind, from YAML text and from plain values);
:func:`~plenum.adapters.manifests.fleet.read_fleet`, :func:`~plenum.adapters.manifests.workloads.read_workloads`,
:func:`~plenum.adapters.manifests.workloads.read_jobs` (one kind); :func:`~plenum.adapters.manifests.dump.dump_fleet`.
"""
