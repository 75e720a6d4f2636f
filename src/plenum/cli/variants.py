"""``plenum variants``: experiments on prompts and models, and what each arm costs and is worth."""

from __future__ import annotations

from typing import Any

import click

from plenum.cli.asking import gateway_url, key_for
from plenum.cli.cloud import cloud_options, connected, tenant_of
from plenum.cli.console import choose_output, write_json
from plenum.cli.tables import Column, write_table
from plenum.model.errors import FieldError, PlenumError

TIMEOUT_S = 10.0


class GatewayError(PlenumError):
    """The gateway does not answer as it should."""

    code = "gateway.unreachable"


@click.command()
@click.option("--url", envvar="PLENUM_GATEWAY", help="Of the gateway.  [default: the cloud's]")
@click.option("--key", default="", envvar="PLENUM_KEY", help="Inference key; better in $PLENUM_KEY than here.")
@choose_output
@cloud_options
def command(url: str | None, key: str, output: str, context: str | None, tenant: str | None) -> None:
    """List a tenant's experiments: of each arm its requests, tokens, latency and the scores that clients gave.

    What was measured counts from the gateway's last start. Experiments stand in the gateway's settings file; answers carry their arm in
    x-plenum-variant, and POST /v1/scores takes {"request_id": …, "score": 0 to 1}.
    """
    if not url:
        with connected(context) as client:
            whose = tenant_of(client, tenant)
            url, key = gateway_url(client), key or key_for(client, whose)
    if not url:
        raise FieldError("--url", "says which gateway; the control plane has heard of none")
    found = _asked(url, key)
    if output == "json":
        write_json(found)
    elif not found:
        click.echo("There are no experiments.")
    else:
        _print(found)


def _asked(url: str, key: str) -> list[dict[str, Any]]:
    import httpx

    base = url.rstrip("/").removesuffix("/v1")
    try:
        answer = httpx.get(
            f"{base}/v1/experiments", headers={"Authorization": f"Bearer {key}"}, timeout=TIMEOUT_S, trust_env=False
        )
        said = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise GatewayError(f"the gateway at {base} does not answer: {type(error).__name__}") from None
    if answer.status_code != 200:
        raise GatewayError(str(said.get("error", {}).get("message", answer.status_code)))
    return said["data"]


def _print(found: list[dict[str, Any]]) -> None:
    heads = ("REQUESTS", "FAILED", "PROMPT", "OUTPUT", "TTFT", "TOTAL", "SCORES", "SCORE")
    columns = [Column(head="EXPERIMENT"), Column(head="ARM"), Column(head="MODEL", fold=True)]
    columns += [Column(head=head, right=True) for head in heads]
    rows = [
        (
            each["id"],
            f"{arm['name']} ({arm['weight']:g})",
            arm["model"],
            arm["requests"],
            arm["failed"],
            _number(arm["prompt_tokens"]),
            _number(arm["output_tokens"]),
            _time(arm["ttft_s"]),
            _time(arm["total_s"]),
            arm["scores"],
            _number(arm["score"]) + (f" ±{1.64 * arm['score_error']:.2f}" if arm["score_error"] is not None else ""),
        )
        for each in found
        for arm in each["arms"]
    ]
    write_table(columns, rows)


def _number(amount: float | None) -> str:
    return "-" if amount is None else f"{amount:.3g}"


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:,.0f} ms" if seconds < 10 else f"{seconds:,.1f} s"
