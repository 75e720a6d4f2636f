"""The scenario of ``plenum plan prefill``: a published case, what was changed of it, or the performance model."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plenum.model.errors import FieldError

if TYPE_CHECKING:
    from plenum.planning.lengths import Lengths
    from plenum.planning.prefill.split import PrefillScenario

MAX_POINTS = 1000


def scenario_of(options: dict[str, Any]) -> tuple[str, str, PrefillScenario, int]:
    """Return title, source, scenario, and how many local instances cost as much as everything (0: unknown)."""
    from plenum.planning.published import PREFILL_PRESETS
    from plenum.serving.curves import fit_quadratic

    if options["preset"] not in PREFILL_PRESETS:
        known = ", ".join(PREFILL_PRESETS)
        raise FieldError("--preset", f"there is no preset {options['preset'][:60]!r}; choose from {known}")
    preset = PREFILL_PRESETS[options["preset"]]
    base = preset.scenario()
    changes: dict[str, Any] = {"averaging": options["averaging"]}
    if options["lengths"] and options["trace"]:
        raise FieldError("--lengths", "give a distribution or a trace, not both")
    if options["lengths"]:
        changes["lengths"] = _lengths(options["lengths"])
    if options["trace"]:
        changes |= _traffic(options["trace"], options["data"])
    for option, field in (("remote", "remote_instances"), ("local", "local_instances"), ("osl", "output_tokens")):
        if options[option] is not None:
            changes[field] = options[option]
    if options["decode"]:
        changes["decode_tokens_per_s"] = options["decode"]
    if options["link"]:
        changes["link_bytes_per_s"] = _rate(options["link"])
    for option, field, degree in (
        ("remote", "remote_prefill_s", 2),
        ("local", "local_prefill_s", 2),
        ("cache", "cache_bytes", 1),
    ):
        if text := options[f"{option}_points"]:
            tokens, values = _points(text, f"--{option}-points", sizes=option == "cache")
            changes[field] = fit_quadratic(tokens, values, degree=degree)
    if options["model"]:
        scenario = replace(_modelled(options, base, changes), **changes)
        title = f"{options['model']}: {options['remote_hardware']} prefill for {options['local_hardware']}"
        return title, "the performance model, not calibrated for this", scenario, 0
    changed = [name for name in changes if name != "averaging"]
    title = preset.title if not changed else f"{options['preset']}, changed: {', '.join(changed)}"
    same = not any(name in changes for name in ("remote_instances", "local_instances"))
    return title, preset.source, replace(base, **changes), preset.homogeneous_instances if same else 0


def _modelled(options: dict[str, Any], base: PrefillScenario, changes: dict[str, Any]) -> PrefillScenario:
    from plenum.cli.devices import instance_on
    from plenum.planning.prefill.model import modelled_scenario

    sites = []
    for name in ("--remote-hardware", "--local-hardware"):
        devices = options[name[2:].replace("-", "_")]
        if not devices:
            raise FieldError(name, "is needed with --model, such as 8xH200")
        sites.append(instance_on(options["model"], devices, name))
    return modelled_scenario(
        *sites,
        remote_instances=changes.get("remote_instances", base.remote_instances),
        local_instances=changes.get("local_instances", base.local_instances),
        lengths=changes.get("lengths", base.lengths),
        output_tokens=changes.get("output_tokens", base.output_tokens),
        tokens_per_s=options["speed"],
        link_bytes_per_s=changes.get("link_bytes_per_s", base.link_bytes_per_s),
    )


def _traffic(text: str, data: Path | None) -> dict[str, Any]:
    """Return the lengths of a trace's prompts, and the mean of its answers."""
    from plenum.cli.serving_traffic import traffic_named
    from plenum.planning.lengths import measured_lengths

    named = traffic_named(text, data=data)
    tokens = named.requests.prompt_tokens
    lengths = measured_lengths(tokens, f"{len(tokens):,} of {named.label}")
    return {"lengths": lengths, "output_tokens": float(named.requests.output_tokens.mean())}


def _lengths(text: str) -> Lengths:
    from plenum.planning.lengths import lognormal_lengths

    try:
        mu, sigma, shortest, longest = (float(part) for part in text.split(","))
    except ValueError:
        sentence = f"must be four numbers such as 9.9,1.0,128,128000, not {text[:60]!r}"
        raise FieldError("--lengths", sentence) from None
    return lognormal_lengths(mu, sigma, shortest, longest)


def _points(text: str, option: str, *, sizes: bool) -> tuple[list[float], list[float]]:
    from plenum.model.units import parse

    tokens, values = [], []
    for part in text.split(",", MAX_POINTS):
        left, colon, right = part.partition(":")
        try:
            tokens.append(float(left))
            values.append(float(parse(right, "bytes", option)) if sizes else float(right))
        except ValueError:
            colon = ""
        if not colon:
            example = "1000:190MiB,32000:700MiB" if sizes else "1000:0.44,32000:1.84"
            raise FieldError(option, f"must be points such as {example}, not {part[:60]!r}")
    if len(set(tokens)) < 2 or not all(0 <= v < math.inf for v in (*tokens, *values)):
        raise FieldError(option, f"must be points of two lengths at least, none below 0, not {text[:60]!r}")
    return tokens, values


def _rate(text: str) -> float:
    from plenum.model.units import parse

    rate = parse(text, "bps", "--link") / 8
    if rate <= 0:
        raise FieldError("--link", "must be above 0")
    return rate
