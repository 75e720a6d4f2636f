"""``plenum plan models``: the models that are known; one of them, or one in a file, in detail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from plenum.cli.complete import complete_format, complete_model
from plenum.cli.console import choose_output, write_json
from plenum.cli.facts import write_facts
from plenum.cli.sentences import write_sentences
from plenum.cli.tables import Column, terminal_width, write_table
from plenum.model.errors import FieldError

if TYPE_CHECKING:
    from plenum.serving.architecture import Architecture
    from plenum.serving.fit import Fit
    from plenum.serving.formats import Precision

SHOWN_FORMATS = ("bf16", "fp8", "int4", "nvfp4")
"""Formats that a model's memory is shown in, besides the one that it is shipped in."""

WIDE = 100
"""Characters of a line from which on the list has room for the families."""

USUAL_CONTEXT = 8192

CONTEXTS = (4096, 32_768, 131_072)
"""Lengths of sequences that the cache is shown for."""


@click.command()
@click.argument("model", required=False, shell_complete=complete_model)
@click.option(
    "--weights",
    metavar="FORMAT",
    help="Format of the weights, such as fp8.  [default: as published]",
    shell_complete=complete_format,
)
@click.option(
    "--kv-cache",
    default="bf16",
    show_default=True,
    metavar="FORMAT",
    help="Format of the KV cache.",
    shell_complete=complete_format,
)
@click.option("--context", type=click.IntRange(1, 10_000_000), help="Tokens that must fit.  [default: 8192]")
@click.option("--family", help="Only models of this family, such as llama or deepseek.")
@choose_output
def command(
    model: str | None, weights: str | None, kv_cache: str, context: int | None, family: str | None, output: str
) -> None:
    """List the models that are known, or describe MODEL: a name, a repository, a config.json, its folder, or a GGUF file.

    Of one model it shows the shapes, the memory of its weights by format, the KV cache, and the fewest devices that hold it.

    \b
    plenum plan models
    plenum plan models meta-llama/Llama-3.1-70B-Instruct
    plenum plan models ./my-model/config.json --weights fp8 --kv-cache fp8 --context 32768
    """
    if model is None:
        _list(family, output)
        return
    from dataclasses import replace

    from plenum.adapters.models import find_architecture
    from plenum.serving.catalogue.models import published_precision
    from plenum.serving.formats import format_named

    found = find_architecture(model, "MODEL")
    context = context or min(USUAL_CONTEXT, found.max_context)
    if context > found.max_context:
        raise FieldError("--context", f"must be at most what {found.name} was made for, {found.max_context:,} tokens")
    precision = published_precision(found)
    if weights:
        precision = replace(precision, weights=format_named(weights, "--weights").name, experts="")
    precision = replace(precision, kv_cache=format_named(kv_cache, "--kv-cache").name)
    if output == "json":
        write_json(model_json(found, precision, context))
    else:
        _describe(found, precision, context)


def _list(family: str | None, output: str) -> None:
    from plenum.serving.catalogue.models import MODELS

    families = sorted({model.family for model in MODELS.values()})
    if family is not None and family not in families:
        raise click.BadParameter(f"known: {', '.join(families)}", param_hint="--family")
    models = [model for model in MODELS.values() if family in (None, model.family)]
    if output == "json":
        write_json([_summary(model) for model in models])
        return
    narrow = (terminal_width() or WIDE) < WIDE
    columns = [
        Column(head="MODEL"), *([] if narrow else [Column(head="FAMILY")]), Column(head="PARAMS", right=True),
        Column(head="ACTIVE", right=True), Column(head="CONTEXT", right=True), Column(head="SHIPPED"),
        Column(head="GB", right=True), Column(head="KV KiB", right=True),
    ]  # fmt: skip
    write_table(columns, [_row(model, narrow) for model in models])
    write_sentences("", "GB of weights as shipped; KV KiB a token in 16 bits. `plenum plan models NAME` says more.")


def _row(model: Architecture, narrow: bool) -> list[str]:
    values = _summary(model)
    shipped = model.weights_format + (f"+{model.experts_format}" if model.experts_format else "")
    context = f"{model.max_context / 2**20:.3g}M" if model.max_context >= 2**20 else f"{model.max_context / 1024:,.0f}K"
    return [
        model.name, *([] if narrow else [model.family]), _billions(model.parameters), _billions(model.active_parameters), context,
        shipped, _short(values["weight_bytes"] / 1e9), _short(values["kv_bytes_per_token"] / 1024),
    ]  # fmt: skip


def _short(amount: float) -> str:
    return f"{amount:,.0f}" if amount >= 100 else f"{amount:,.1f}"


def _summary(model: Architecture) -> dict[str, Any]:
    from plenum.serving.catalogue.models import published_precision
    from plenum.serving.fit import model_bytes

    return {
        "name": model.name,
        "family": model.family,
        "parameters": model.parameters,
        "active_parameters": model.active_parameters,
        "layers": model.layers,
        "hidden": model.hidden,
        "vocab": model.vocab,
        "max_context": model.max_context,
        "weights_format": model.weights_format,
        "experts_format": model.experts_format,
        "weight_bytes": model_bytes(model, published_precision(model)),
        "kv_bytes_per_token": model.cache_values_per_token * 2,
        "source": model.source,
    }


def model_json(model: Architecture, precision: Precision, context: int) -> dict[str, Any]:
    """Return everything that is said of a model, as plain values."""
    from dataclasses import asdict

    from plenum.serving.formats import FORMATS

    cache = FORMATS[precision.kv_cache].bytes
    return _summary(model) | {
        "parameters_published": model.parameters_published or None,
        "left_out": model.left_out,
        "tied_embeddings": model.tied_embeddings,
        "blocks": [asdict(block) for block in model.blocks],
        "precision": asdict(precision),
        "flops_per_token": 2 * model.active_parameters,
        "weights": [{"format": name, "bytes": _bytes_in(model, name)} for name in _formats(precision)],
        "kv_cache": [{"tokens": n, "bytes": model.cache_values(n) * cache} for n in _contexts(model)],
        "fits": [{"hardware": name, **asdict(fit)} for name, fit in _fits(model, precision, context)],
    }


def _describe(model: Architecture, precision: Precision, context: int) -> None:
    from plenum.serving.formats import FORMATS

    cache = FORMATS[precision.kv_cache].bytes
    stated = model.parameters_published
    check = f"; its publisher states {_billions(stated)}" if stated else ""
    click.echo(click.style(model.name, bold=True) + f"  ({model.family})")
    facts = [
        ("parameters", f"{_billions(model.parameters)}, {_billions(model.active_parameters)} active a token{check}"),
        ("FLOPs a token", f"{2 * model.active_parameters / 1e9:,.1f} G, and attention"),
        ("hidden, vocabulary", f"{model.hidden:,}, {model.vocab:,}" + (" (tied)" if model.tied_embeddings else "")),
        ("context", f"{model.max_context:,} tokens"),
        *[("layers" if i == 0 else "", f"{b.count} x {_block(b)}") for i, b in enumerate(model.blocks)],
        ("KV cache", f"{model.cache_values_per_token * cache / 1024:,.1f} KiB a token in {precision.kv_cache}"),
    ]
    if model.left_out:
        facts.append(("not counted", model.left_out))
    facts.append(("source", model.source))
    write_facts(facts)
    click.echo()
    rows = [[name, f"{_bytes_in(model, name) / 1e9:,.1f} GB"] for name in _formats(precision)]
    write_table([Column(head="WEIGHTS IN"), Column(head="TAKE", right=True)], rows)
    click.echo()
    rows = [[f"{n:,}", f"{model.cache_values(n) * cache / 1e9:,.3f} GB"] for n in _contexts(model)]
    write_table([Column(head="TOKENS OF A SEQUENCE", right=True), Column(head="CACHE", right=True)], rows)
    shipped = precision.weights + (f", experts in {precision.experts}" if precision.experts else "")
    click.echo(f"\nFewest devices, weights in {shipped}, one sequence of {context:,} tokens:")
    columns = [
        Column(head="HARDWARE"), Column(head="DEVICES", right=True), Column(head="WEIGHTS EACH", right=True),
        Column(head="CACHE TOKENS", right=True), Column(head="COMPUTES IN"), Column(head="WHY NOT", fold=True, below=True),
    ]  # fmt: skip
    write_table(columns, [_fit_row(name, fit, precision) for name, fit in _fits(model, precision, context)])


def _fit_row(name: str, fit: Fit, precision: Precision) -> list[str]:
    from plenum.serving.catalogue.accelerators import ACCELERATORS
    from plenum.serving.format_use import format_use

    use = format_use(ACCELERATORS[name], precision.experts or precision.weights)
    if not fit.devices:
        return [name, "-", "", "", use.computed_in or "-", fit.why_not]
    each, tokens = f"{fit.weight_bytes / 1e9:,.1f} GB", f"{fit.cache_tokens:,}"
    return [name, str(fit.devices), each, tokens, use.computed_in or "-", ""]


def _fits(model: Architecture, precision: Precision, context: int) -> list[tuple[str, Fit]]:
    from plenum.serving.catalogue.accelerators import ACCELERATORS
    from plenum.serving.fit import fewest_devices

    return [(n, fewest_devices(model, a, precision, context_tokens=context)) for n, a in ACCELERATORS.items()]


def _formats(precision: Precision) -> list[str]:
    shipped = precision.weights + (f"+{precision.experts}" if precision.experts else "")
    return list(dict.fromkeys([shipped, *SHOWN_FORMATS]))


def _bytes_in(model: Architecture, name: str) -> float:
    from plenum.serving.fit import model_bytes
    from plenum.serving.formats import Precision

    weights, _, experts = name.partition("+")
    return model_bytes(model, Precision(weights=weights, experts=experts))


def _contexts(model: Architecture) -> list[int]:
    return [n for n in CONTEXTS if n <= model.max_context] or [model.max_context]


def _block(block: Any) -> str:
    attention, feed = block.attention, block.feed_forward
    kinds = {
        "full": f"{attention.heads} heads over {attention.kv_heads} KV heads of {attention.head_dim}",
        "sliding": f"{attention.heads} heads over {attention.kv_heads} of {attention.head_dim}, last {attention.window:,} tokens",
        "mla": f"{attention.heads} heads over a latent of {attention.kv_rank} + {attention.rope_dim}",
        "linear": f"a state of {attention.heads} x {attention.head_dim} x {attention.values}",
    }
    sparse = f", {attention.selected:,} tokens selected" if attention.selected else ""
    if not feed.experts:
        return f"{kinds[attention.kind]}{sparse}; {feed.width:,} wide"
    shared = f" and {feed.shared_width:,} shared" if feed.shared_width else ""
    return f"{kinds[attention.kind]}{sparse}; {feed.active} of {feed.experts} experts {feed.width:,} wide{shared}"


def _billions(count: float) -> str:
    if count >= 1e12:
        return f"{count / 1e12:.2f} T"
    return f"{count / 1e9:,.1f} B" if count >= 1e9 else f"{count / 1e6:,.0f} M"
