"""``plenum login``: get to know a control plane."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plenum.cli.kinds import grant_text
from plenum.cli.times import clock

if TYPE_CHECKING:
    from plenum.adapters.contexts import Context

MAX_TOKEN = 16_384


@click.command()
@click.argument("server", required=False)
@click.option("--name", metavar="NAME", help="Under which name to keep it; default: the server's host.")
@click.option(
    "--token-file", type=click.Path(), metavar="FILE|-", help="Read the token from here; default: ask for it."
)
@click.option("--ca", type=click.Path(), metavar="FILE", help="Authority that signed the server's certificate.")
@click.option("--tenant", "-t", metavar="NAME", help="Whose things are meant unless a command says so.")
def command(server: str | None, name: str | None, token_file: str | None, ca: str | None, tenant: str | None) -> None:
    """Try a token on a control plane at SERVER and keep both, in a file that only you can read.

    SERVER is an address such as https://127.0.0.1:7070; without it, a new token for the context in use is kept.

    \b
    plenum login https://plenum.example:7070 --ca ca.pem
    """
    from plenum.adapters.client import Client
    from plenum.adapters.contexts import save_context

    context = _context(server, name, ca, tenant)
    context = _with_token(context, _token(token_file, context.server))
    with Client(context) as client:
        who = client.get("/whoami")
    if not context.tenant and (own := _only_tenant(who)):
        context = _with_tenant(context, own)
    path = save_context(context)
    click.echo(f"You are {who['name']} at {context.server}: {_may(who)}. Kept as context {context.name} in {path}.")


def _context(server: str | None, name: str | None, ca: str | None, tenant: str | None) -> Context:
    from dataclasses import replace
    from urllib.parse import urlsplit

    from plenum.adapters.contexts import Context, chosen_context, contexts, server_url

    known, _ = contexts()
    if server is None:
        context = known[name] if name in known else chosen_context()
    else:
        url = server_url(server)
        parts = urlsplit(url)
        title = name or parts.hostname or "default"
        if not name and title in known and known[title].server != url:
            title = parts.netloc  # another control plane on the same host
        context = known.get(title, Context(name=title, server=url))
        context = replace(context, server=url) if context.server == url else Context(name=title, server=url)
    if not context.name:
        context = replace(context, name=name or urlsplit(context.server).hostname or "default")
    if ca:
        context = replace(context, ca=str(Path(ca).absolute()))
    return replace(context, tenant=tenant) if tenant else context


def _token(file: str | None, server: str) -> str:
    from plenum.model.errors import FieldError, FileError, Where

    if file is None:
        token = click.prompt(f"Token for {server}", hide_input=True, err=True)
    elif file == "-":
        token = sys.stdin.read(MAX_TOKEN)
    else:
        try:
            with Path(file).open(encoding="utf-8") as stream:
                token = stream.read(MAX_TOKEN)
        except (OSError, UnicodeDecodeError) as error:
            raise FileError(f"holds no token that can be read: {error}", Where(file=file)) from None
    token = token.strip()
    if not token or not token.isascii() or any(c.isspace() for c in token):
        raise FieldError("token", "is not a token: it is one word such as plm_…")
    return token


def _with_token(context: Context, token: str) -> Context:
    from dataclasses import replace

    return replace(context, token=token)


def _with_tenant(context: Context, tenant: str) -> Context:
    from dataclasses import replace

    return replace(context, tenant=tenant)


def _only_tenant(who: dict[str, Any]) -> str:
    tenants = {grant["tenant"] for grant in who.get("grants", ())} - {"*"}
    return tenants.pop() if len(tenants) == 1 and not who.get("operator") else ""


def _may(who: dict[str, Any]) -> str:
    grants = "operator" if who.get("operator") else ", ".join(grant_text(g) for g in who.get("grants", ()))
    until = f", until {clock(who['expiresAt'])}" if who.get("expiresAt") else ""
    return f"{grants or 'without any role'}{until}"
