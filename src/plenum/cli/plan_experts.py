"""``plenum plan experts``: many expert models over tiers of memory."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import click

from plenum.cli.complete import complete_preset
from plenum.cli.console import choose_output, write_json
from plenum.cli.exits import DONE, NO
from plenum.cli.units import BYTES, LONG_SECONDS, Number
from plenum.model.errors import FieldError

if TYPE_CHECKING:
    from plenum.planning.experts import Composition, Platform, Service, Work
    from plenum.planning.published import ExpertsPreset

TRACE = 20_000
"""Requests that the estimate of the hit rate is checked with."""


@click.command()
@click.option("--preset", default="sn40l", show_default=True, help="A published case to start from.",
              shell_complete=complete_preset)  # fmt: skip
@click.option("--experts", type=click.IntRange(1, 1_000_000), help="How many expert models there are.")
@click.option("--expert-size", type=BYTES, help="Of one, such as 14GB.")
@click.option("--pinned", type=BYTES, help="Router and KV cache, which never leave fast memory.")
@click.option(
    "--skew",
    type=Number(0, 10),
    default=0.0,
    show_default=True,
    help="Zipf exponent of their popularity; 0: all alike.",
)
@click.option("--batch", type=click.IntRange(1, 4096), default=8, show_default=True, help="Prompts routed together.")
@click.option("--osl", type=click.IntRange(1, 1_000_000), default=20, show_default=True, help="Tokens of an answer.")
@click.option("--grouped", is_flag=True, help="Serve the prompts of one expert one after the other.")
@click.option(
    "--platform",
    "platforms",
    multiple=True,
    metavar="NAME:KEY=VALUE,…",
    help="Add a server: hbm=, pool=, switch= (bytes a second), prompt_s=, token_s=, usd=.",
)
@click.option("--within", type=LONG_SECONDS, help="How long a prompt may take, such as 500ms.")
@click.option("--rps", type=Number(0, 1e9), default=0.0, show_default=True, help="Prompts a second to be served.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the simulated requests.")
@choose_output
def command(**options: Any) -> None:
    """Compare servers for a composition of experts: switching, hit rate, time of a prompt, servers it takes.

    Fast memory (HBM) is a least-recently-used cache of the pool behind it. The hit rate is estimated and, beside it, simulated with
    the code that keeps prefix caches. Exits with 1 where no server keeps --within and --rps.

    \b
    plenum plan experts
    plenum plan experts --experts 850 --skew 1 --batch 8 --grouped
    plenum plan experts --experts 300 --within 500ms --platform 'H200-box:hbm=1128GB,pool=4TiB,switch=64GB,prompt_s=0.02,token_s=0.002'
    """
    from plenum.planning import experts as planning

    preset = _preset(options["preset"])
    composition = _composition(preset, options)
    work = planning.Work(batch=options["batch"], output_tokens=options["osl"], grouped=options["grouped"])
    platforms = [*preset.platforms, *(_platform(text) for text in options["platforms"])]
    services = planning.options(platforms, composition, work)
    within = options["within"] or float("inf")
    chosen = planning.recommended(services, platforms, request_s=within, prompts_per_s=options["rps"])
    rows = [_row(platform, composition, work, services, options["seed"]) for platform in platforms]
    if options["output"] == "json":
        write_json(
            {
                "source": preset.source,
                "experts": composition.experts,
                "expert_bytes": composition.expert_bytes,
                "work": asdict(work),
                "platforms": rows,
                "options": [asdict(service) for service in services],
                "recommended": asdict(chosen) if chosen else None,
            }
        )
    else:
        _print(preset, composition, work, platforms, rows)
        _print_choice(services, chosen, within, options["rps"])
    sys.exit(DONE if chosen else NO)


def _preset(name: str) -> ExpertsPreset:
    from plenum.planning.published import EXPERTS_PRESETS

    if name not in EXPERTS_PRESETS:
        raise FieldError("--preset", f"there is no preset {name[:60]!r}; choose from {', '.join(EXPERTS_PRESETS)}")
    return EXPERTS_PRESETS[name]


def _composition(preset: ExpertsPreset, options: dict[str, Any]) -> Composition:
    from plenum.planning.experts import Composition, zipf

    size = preset.expert_bytes if options["expert_size"] is None else options["expert_size"]
    if size <= 0:
        raise FieldError("--expert-size", "must be above 0, such as 14GB")
    return Composition(
        popularity=zipf(options["experts"] or preset.experts, options["skew"]),
        expert_bytes=size,
        pinned_bytes=preset.pinned_bytes if options["pinned"] is None else options["pinned"],
    )


def _bytes(text: str, option: str) -> float:
    from plenum.model.units import parse

    return float(parse(text, "bytes", option))


def _platform(text: str) -> Platform:
    from plenum.planning.experts import Platform

    sizes = {"hbm": "hbm_bytes", "pool": "pool_bytes", "switch": "switch_bytes_per_s"}
    plain = ("prompt_s", "token_s", "usd")
    name, _, rest = text[:1000].partition(":")
    values: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
        if key in sizes:
            values[sizes[key]] = _bytes(value, "--platform")
        elif key in plain:
            try:
                values[key] = float(value)
            except ValueError:
                raise FieldError("--platform", f"{key} must be a number, not {value[:40]!r}") from None
        else:
            raise FieldError("--platform", f"knows no {key[:40]!r}; give {', '.join((*sizes, *plain))}")
    needed = {*sizes.values(), "prompt_s", "token_s"}
    if not name or not needed <= values.keys() or not all(0 < values[key] < math.inf for key in needed):
        example = "box:hbm=640GB,pool=2TiB,switch=64GB,prompt_s=0.03,token_s=0.003"
        raise FieldError("--platform", f"must be such as {example}, each above 0, not {text[:80]!r}")
    return Platform(name=name, **values)


def _row(
    platform: Platform, composition: Composition, work: Work, services: list[Service], seed: int
) -> dict[str, Any]:
    import numpy as np

    from plenum.planning import experts as planning

    tiers, hbm = (planning.servers_needed(platform, composition, mode) for mode in ("tiers", "hbm"))
    row: dict[str, Any] = {
        "platform": platform.name,
        "switch_s": planning.switch_s(platform, composition.expert_bytes),
        "resident": max(planning.resident_experts(platform, composition), 0),
        "most_experts": planning.most_experts(platform, composition),
        "servers_by_tiers": tiers,
        "servers_by_hbm": hbm,
        "service": None,
        "hit_rate_simulated": None,
    }
    first = next((service for service in services if service.platform == platform.name), None)
    if first:
        mine = composition.popularity[:: first.servers]
        local = replace(work, batch=max(1, round(work.batch / first.servers)))
        trace = planning.draw_trace(mine / mine.sum(), TRACE, np.random.default_rng(seed), local)
        row["hit_rate_simulated"] = float(planning.lru_hits(trace, len(mine), [first.resident])[0] / TRACE)
        row["service"] = asdict(first)
    return row


def _print(
    preset: ExpertsPreset, composition: Composition, work: Work, platforms: list[Platform], rows: list[dict[str, Any]]
) -> None:
    from plenum.cli.sentences import write_sentences
    from plenum.cli.tables import Column, write_table

    write_sentences(
        f"{composition.experts:,} experts of {composition.expert_bytes / 1e9:g} GB, {composition.pinned_bytes / 1e9:g} GB pinned",
        f"batches of {work.batch} prompts{' grouped by expert' if work.grouped else ''}, answers of {work.output_tokens} tokens; "
        f"constants: {preset.source}",
        "",
    )
    fastest = min(row["switch_s"] for row in rows)
    times = [row["service"]["request_s"] for row in rows if row["service"]]
    least = min(times, default=1.0)
    heads = ("SERVER", "SWITCH", "RATIO", "IN HBM", "AT MOST", "HIT %", "PROMPT", "RATIO", "SERVERS")
    columns = [Column(head=head, right=i > 0, fold=i == 0) for i, head in enumerate(heads)]
    table = []
    for row in rows:
        service = row["service"]
        hit = f"{100 * (1 - service['miss_rate']):.0f} ({100 * row['hit_rate_simulated']:.0f})" if service else ""
        time = (
            (f"{1000 * service['request_s']:.0f} ms", f"{service['request_s'] / least:.1f}x") if service else ("", "")
        )
        table.append(
            [
                row["platform"],
                f"{1000 * row['switch_s']:.0f} ms",
                f"{row['switch_s'] / fastest:.1f}x",
                row["resident"],
                row["most_experts"],
                hit,
                *time,
                f"{row['servers_by_tiers'] or 'never'} / {row['servers_by_hbm'] or 'never'}",
            ]
        )
    write_table(columns, table)
    write_sentences(
        "",
        "hit: estimated, and simulated in brackets, on the fewest servers; servers: as few as hold all experts at all / in HBM",
    )


def _print_choice(services: list[Service], chosen: Service | None, within: float, rps: float) -> None:
    from plenum.cli.sentences import write_sentences

    if chosen is None:
        fastest = min(services, key=lambda s: s.request_s, default=None)
        if fastest is None:
            write_sentences("no platform holds even one expert beside what is pinned")
            return
        write_sentences(
            f"nothing serves a prompt within {within:g} s at {rps:g}/s with up to as many servers as hold every expert in HBM; the "
            f"fastest is {fastest.servers} x {fastest.platform}: {fastest.request_s:.3f} s, of which running the expert is "
            f"{fastest.expert_s:.3f} s and switching {fastest.switch_s:.3f} s",
        )
        return
    held = "every expert in HBM" if chosen.mode == "hbm" else f"{chosen.resident} in HBM, all in the pool behind it"
    parts = {"switching": chosen.switch_s, "running the expert": chosen.expert_s, "routing": chosen.router_s}
    most = max(parts, key=lambda name: parts[name])
    spent = ", ".join(f"{name} {1000 * seconds:.0f} ms" for name, seconds in parts.items())
    write_sentences(
        f"recommended: {chosen.servers} x {chosen.platform} ({held}), {1000 * chosen.request_s:.0f} ms a prompt, "
        f"{chosen.prompts_per_s:.1f} prompts/s",
        f"of a prompt's time: {spent}; {most} is most of it",
    )
