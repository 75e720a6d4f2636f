"""Generators: a number of equal nodes and the trees above them, from a few numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from plenum.adapters.manifests.fleet_types import Fabric, Group, Place, Power
from plenum.graph.build import FleetBuilder
from plenum.graph.templates import NodeTemplate, with_rails
from plenum.model.errors import FieldError
from plenum.model.fleet import DeviceKind

UPLINK = "uplink_bps"
"""Budget of a leaf or spine group: the bandwidth at which it reaches what is outside it."""


class PowerLimits:
    """Limits as people write them, idle draw included, and what idles under each; the difference is a budget."""

    def __init__(self) -> None:
        self._above: dict[str, str | None] = {}
        self._limit_w: dict[str, int] = {}
        self._idle_w: Counter[str] = Counter()

    def add(self, domain: str, above: str | None, limit_w: int | None) -> None:
        """Note a domain, the one above it, and its limit if it has one."""
        self._above[domain] = above
        if limit_w is not None and self._limit_w.setdefault(domain, limit_w) != limit_w:
            raise FieldError("power", f"{domain} has two limits, {self._limit_w[domain]} W and {limit_w} W; keep one")

    def draw(self, domain: str | None, idle_w: int) -> None:
        """Note that something idles in a domain."""
        while domain is not None:
            self._idle_w[domain] += idle_w
            domain = self._above.get(domain)

    def budgets(self) -> Iterator[tuple[str, int, int]]:
        """Yield each limited domain, its limit and what idles in it, in watts."""
        for domain, limit_w in self._limit_w.items():
            yield domain, limit_w, self._idle_w[domain]


def add_group(
    builder: FleetBuilder, group: Group, template: NodeTemplate, site: str | None, limits: PowerLimits
) -> list[str]:
    """Add a group's domains and nodes; return the names of the nodes.

    Parameters
    ----------
    site
        Path of the site, which the builder has; None where the fleet names none.

    Raises
    ------
    FieldError
        What the group asks for cannot be built.
    """
    n, shape = group.nodes, replace(template.shape, traits=(*template.shape.traits, *group.traits))
    names = _numbered(f"{group.name}-", n)
    per_rack = group.place.nodes_per_rack or template.nodes_per_rack
    racks = _add_place(builder, group.name, group.place, -(-n // per_rack), site)
    homes = {"place": [racks[i // per_rack] for i in range(n)]}
    if group.fabric is not None:
        leaves = _add_fabric(builder, group.name, group.fabric, n, template)
        homes["fabric"] = [leaves[i // group.fabric.nodes_per_leaf] for i in range(n)]
        if group.fabric.rails:
            shape = with_rails(shape)
    if template.nodes_per_nvlink:
        homes["scaleup"] = add_nvlink(builder, group.name, names, template.nodes_per_nvlink)
    if group.power is not None:
        power = _add_power(builder, group.name, group.power, racks, limits)
        homes["power"] = [power[i // per_rack] for i in range(n)]
        for home in homes["power"]:
            limits.draw(home, template.idle_power_w)
    builder.nodes(names, shape, domains=homes)
    return names


def add_nvlink(builder: FleetBuilder, prefix: str, names: Sequence[str], per_domain: int) -> list[str]:
    """Add the scale-up domains of nodes, named after the node where each has its own; return each node's."""
    if per_domain == 1:
        return [builder.domain("scaleup.nvlink", name, parent=None) for name in names]
    domains = _tier(builder, "scaleup.nvlink", f"{prefix}-nvlink", -(-len(names) // per_domain), [], None)
    return [domains[i // per_domain] for i in range(len(names))]


def _add_place(builder: FleetBuilder, name: str, place: Place, racks: int, site: str | None) -> list[str]:
    above = [site] if site else []
    rows = -(-racks // place.racks_per_row) if place.racks_per_row else 0
    if place.hall:
        above = [builder.domain("place.hall", place.hall, parent=site)]
    elif place.rows_per_hall:
        above = _tier(builder, "place.hall", f"{name}-hall", -(-rows // place.rows_per_hall), above, None)
    if rows:
        above = _tier(builder, "place.row", f"{name}-row", rows, above, place.rows_per_hall)
    return _tier(builder, "place.rack", f"{name}-rack", racks, above, place.racks_per_row)


def _add_fabric(builder: FleetBuilder, name: str, fabric: Fabric, n: int, template: NodeTemplate) -> list[str]:
    nics = template.shape.count(DeviceKind.NIC)
    if fabric.rails and not nics:
        raise FieldError("fabric.rails", "the template has no NICs to put on rails")
    leaf_count = -(-n // fabric.nodes_per_leaf)
    spine_count = -(-leaf_count // fabric.leaves_per_spine) if fabric.leaves_per_spine else 0
    above: list[str] = []
    if fabric.pod:
        above = [builder.domain("fabric.pod", fabric.pod, parent=None)]
    elif fabric.spines_per_pod:
        above = _tier(builder, "fabric.pod", f"{name}-pod", -(-spine_count // fabric.spines_per_pod), [], None)
    spines = _tier(builder, "fabric.spine", f"{name}-spine", spine_count, above, fabric.spines_per_pod)
    leaves = _tier(builder, "fabric.leaf", f"{name}-leaf", leaf_count, spines or above, fabric.leaves_per_spine)
    uplinks = []
    for i, leaf in enumerate(leaves):
        if fabric.rails:
            _tier(builder, "fabric.rail", f"{leaf.partition(':')[2]}/rail", nics, [leaf], None)
        below = min(fabric.nodes_per_leaf, n - i * fabric.nodes_per_leaf) * template.nic_bps
        uplinks.append(round(below / fabric.oversubscription.leaf))
    for leaf, uplink in zip(leaves, uplinks, strict=True):
        builder.budget(leaf, UPLINK, uplink)
    per_spine = fabric.leaves_per_spine or 1
    for i, spine in enumerate(spines):
        below = sum(uplinks[i * per_spine : (i + 1) * per_spine])
        builder.budget(spine, UPLINK, round(below / fabric.oversubscription.spine))
    return leaves


def _add_power(builder: FleetBuilder, name: str, power: Power, racks: Sequence[str], limits: PowerLimits) -> list[str]:
    pdu_count = -(-len(racks) // power.racks_per_pdu) if power.racks_per_pdu else 0
    feeds: list[str] = []
    if power.feed:
        feeds = [builder.domain("power.feed", power.feed, parent=None)]
    elif power.pdus_per_feed:
        feeds = _tier(builder, "power.feed", f"{name}-feed", -(-pdu_count // power.pdus_per_feed), [], None)
    for feed in feeds:
        limits.add(feed, None, power.feed_limit)
    pdus = _tier(builder, "power.pdu", f"{name}-pdu", pdu_count, feeds, power.pdus_per_feed)
    for i, pdu in enumerate(pdus):
        limits.add(pdu, _under(feeds, power.pdus_per_feed, i), power.pdu_limit)
    domains = []
    for i, rack in enumerate(racks):
        above = _under(pdus or feeds, power.racks_per_pdu, i)
        domains.append(builder.domain("power.rack", rack.partition(":")[2], parent=above))
        limits.add(domains[-1], above, power.rack_limit)
    return domains


def _tier(
    builder: FleetBuilder, level: str, prefix: str, count: int, above: Sequence[str], per: int | None
) -> list[str]:
    """Add numbered domains, ``per`` of them under each of those above (all under the first where there is no number)."""
    names = _numbered(prefix, count)
    return [builder.domain(level, name, parent=_under(above, per, i)) for i, name in enumerate(names)]


def _under(above: Sequence[str], per: int | None, i: int) -> str | None:
    return above[i // per if per else 0] if above else None


def _numbered(prefix: str, count: int) -> list[str]:
    """Number names from 0 with leading zeros, so that they sort as they count."""
    width = len(str(count - 1))
    return [f"{prefix}{i:0{width}d}" for i in range(count)]
