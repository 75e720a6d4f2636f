"""Names completed in the shell, of catalogues or asked of the control plane: quickly, and silently where there is no answer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click
from click.shell_completion import CompletionItem

TIMEOUT_S = 1.0
MOST = 500


def complete_context(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a saved context."""
    from plenum.adapters.contexts import contexts
    from plenum.model.errors import PlenumError

    try:
        found, _ = contexts()
    except PlenumError:
        return []
    return [CompletionItem(name, help=c.server) for name, c in found.items() if name.startswith(incomplete)]


def complete_tenant(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a tenant."""
    return _names(ctx, "/tenants", incomplete)


def complete_node(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a node."""
    return _names(ctx, "/nodes", incomplete)


def complete_token(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the id of a token."""
    return _names(ctx, "/tokens", incomplete)


def complete_job(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a job of any kind, or behind ``kind/`` of that."""
    from plenum.cli.kinds import JOB_KINDS, JOB_WORDS

    word, slash, rest = incomplete.partition("/")
    if not slash or word.lower() not in JOB_WORDS:
        return [item for plural in JOB_KINDS for item in _names(ctx, plural, incomplete, of_tenant=True)]
    plurals = [JOB_WORDS[word.lower()]] if JOB_WORDS[word.lower()] else JOB_KINDS
    found = [item.value for plural in plurals for item in _names(ctx, plural, rest, of_tenant=True)]
    return [CompletionItem(f"{word}/{name}") for name in found]


def complete_weights(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a model that can be served by its name alone; else a path."""
    from plenum.adapters.weights import CATALOGUE

    return _starting(CATALOGUE, incomplete) or [CompletionItem(incomplete, type="file")]


def complete_endpoint(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete an endpoint."""
    return _names(ctx, "endpoints", incomplete, of_tenant=True)


def complete_key(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the id of a key."""
    return _names(ctx, "keys", incomplete, of_tenant=True)


def complete_kind(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a kind by its plural."""
    from plenum.cli.kinds import KINDS

    return [CompletionItem(kind.plural) for kind in KINDS if kind.plural.startswith(incomplete.lower())]


def complete_name(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a name of the kind that stands before it."""
    from plenum.cli.kinds import JOB_KINDS, KIND_BY_WORD

    kind = KIND_BY_WORD.get((ctx.params.get("kind") or "").lower())
    if kind is None:
        return []
    if kind.plural == "jobs":
        return [item for plural in JOB_KINDS for item in _names(ctx, plural, incomplete, of_tenant=True)]
    return _names(ctx, kind.plural, incomplete, of_tenant=kind.of_tenant)


def complete_model(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a model of the catalogue; where none begins so, a path."""
    from plenum.serving.catalogue.models import MODELS

    return _starting(MODELS, incomplete) or [CompletionItem(incomplete, type="file")]


def complete_hardware(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete an accelerator; of a list separated by commas, its last one."""
    from plenum.serving.catalogue.accelerators import ACCELERATORS

    return _last_of(ACCELERATORS, incomplete)


def complete_format(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a number format, or the last of several."""
    from plenum.serving.formats import FORMATS

    return _last_of(FORMATS, incomplete)


def complete_routing(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a routing policy, or the last of several."""
    from plenum.cli.serving_traffic import ROUTING

    return _last_of(ROUTING, incomplete)


def complete_traffic(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a trace, a kind of invented traffic, or a kind of agent; else a path."""
    from plenum.cli.serving_traffic import INVENTED, NAMED

    if incomplete.startswith("agent:"):
        from plenum.planning.published import AGENT_KINDS

        return _starting((f"agent:{name}:" for name in AGENT_KINDS), incomplete)
    names = (*NAMED, *(f"{name}:" for name in INVENTED))
    return _starting(names, incomplete) or [CompletionItem(incomplete, type="file")]


def complete_agent(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a kind of agent."""
    from plenum.planning.published import AGENT_KINDS

    return _starting(AGENT_KINDS, incomplete)


def complete_preset(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a published case of the command at hand."""
    from plenum.planning.published import EXPERTS_PRESETS, PREFILL_PRESETS

    return _starting(EXPERTS_PRESETS if ctx.info_name == "experts" else PREFILL_PRESETS, incomplete)


def _starting(names: Iterable[str], incomplete: str, before: str = "") -> list[CompletionItem]:
    return [CompletionItem(before + name) for name in names if name.lower().startswith(incomplete.lower())]


def _last_of(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    before, comma, last = incomplete.rpartition(",")
    return _starting(names, last, before + comma)


def _names(ctx: click.Context, path: str, incomplete: str, *, of_tenant: bool = False) -> list[CompletionItem]:
    """Ask for names; whatever goes wrong, there are none: a shell that completes is no place for errors."""
    tenant, slash, start = incomplete.rpartition("/") if of_tenant else ("", "", incomplete)
    try:
        found = _asked({**ctx.params, **({"tenant": tenant} if tenant else {})}, path, of_tenant)
    except Exception:
        return []
    return [CompletionItem(tenant + slash + name) for name in found if name.startswith(start)]


def _asked(given: dict[str, Any], path: str, of_tenant: bool) -> list[str]:
    from plenum.adapters.client import Client, part
    from plenum.adapters.contexts import chosen_context
    from plenum.cli.cloud import tenant_of

    with Client(chosen_context(given.get("context") or ""), attempts=1, timeout_s=TIMEOUT_S) as client:
        path = path if path.startswith("/") else f"/{path}"
        if of_tenant:
            path = f"/tenants/{part(tenant_of(client, given.get('tenant')))}{path}"
        page = client.get(path, fields="metadata.name", limit=MOST)
    return [item["metadata"]["name"] for item in page["items"]]
