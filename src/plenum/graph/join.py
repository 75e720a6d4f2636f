"""Several fleets as one, so that one decision sees all hardware there is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plenum.model.errors import FieldError
from plenum.model.fleet import AXES, Fleet


def joined(fleets: Sequence[Fleet], name: str = "all") -> Fleet:
    """Return one fleet with the nodes of several, in their order.

    Domains of two fleets that share level and name are kept apart: the later one is called ``fleet/name``.

    Raises
    ------
    FieldError
        No fleet at all.
    """
    if not fleets:
        raise FieldError("fleets", "there is no hardware yet; apply a Fleet, or let an agent join")
    if len(fleets) == 1:
        return fleets[0]
    models, traits, resources = (_union(getattr(f, part) for f in fleets) for part in ("models", "traits", "resources"))
    domains = np.cumsum([0, *(len(f.domain_name) for f in fleets)])
    nodes = np.cumsum([0, *(f.n_nodes for f in fleets)])
    parts = list(zip(fleets, domains.tolist(), nodes.tolist(), strict=False))

    def each(field: str) -> NDArray[Any]:
        return np.concatenate([getattr(f, field) for f in fleets], axis=-1)

    def shifted(field: str) -> NDArray[Any]:
        return np.concatenate([_moved(getattr(f, field), at) for f, at, _ in parts], axis=-1)

    return Fleet(
        name=name,
        domain_level=each("domain_level"),
        domain_parent=shifted("domain_parent"),
        domain_name=_names(fleets),
        node_home=shifted("node_home").reshape(len(AXES), -1),
        node_gpu_power_w=each("node_gpu_power_w"),
        node_traits=np.concatenate([_columns(f, traits) for f in fleets]),
        node_health=each("node_health"),
        node_cordoned=each("node_cordoned"),
        device_kind=each("device_kind"),
        device_node=np.concatenate([_moved(f.device_node, at) for f, _, at in parts]),
        device_index=each("device_index"),
        device_model=np.concatenate([_renumbered(f.device_model, f.models, models) for f in fleets]),
        device_health=each("device_health"),
        device_capacity=each("device_capacity"),
        device_domain=shifted("device_domain").reshape(len(AXES), -1),
        budget_domain=shifted("budget_domain"),
        budget_resource=np.concatenate([_renumbered(f.budget_resource, f.resources, resources) for f in fleets]),
        budget_capacity=each("budget_capacity"),
        models=models,
        traits=traits,
        resources=resources,
    )


def _union(parts: Any) -> tuple[str, ...]:
    return tuple(sorted({word for words in parts for word in words}))


def _moved(index: NDArray[Any], by: int) -> NDArray[Any]:
    return np.where(index >= 0, index + by, index).astype(index.dtype)


def _renumbered(index: NDArray[Any], old: tuple[str, ...], new: tuple[str, ...]) -> NDArray[Any]:
    table = np.array([*(new.index(word) for word in old), -1], index.dtype)  # the last: -1 stays -1
    return table[index]


def _columns(fleet: Fleet, traits: tuple[str, ...]) -> NDArray[np.bool_]:
    out = np.zeros((fleet.n_nodes, len(traits)), np.bool_)
    out[:, [traits.index(t) for t in fleet.traits]] = fleet.node_traits
    return out


def _names(fleets: Sequence[Fleet]) -> tuple[str, ...]:
    seen: Counter[tuple[int, str]] = Counter()
    names: list[str] = []
    for fleet in fleets:
        own = list(zip(fleet.domain_level.tolist(), fleet.domain_name, strict=True))
        names += [name if not seen[level, name] else f"{fleet.name}/{name}" for level, name in own]
        seen.update(own)
    return tuple(names)


def with_trait(fleet: Fleet, trait: str) -> Fleet:
    """Return a fleet all of whose nodes have one more trait."""
    traits = _union([fleet.traits, (trait,)])
    columns = _columns(fleet, traits)
    columns[:, traits.index(trait)] = True
    return fleet.replaced(traits=traits, node_traits=columns)
