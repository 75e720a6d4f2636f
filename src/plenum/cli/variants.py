"""``plenum variants``: experiments on prompts and models, what each arm costs and is worth, and which to take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from plenum.cli.asking import key_for
from plenum.cli.cloud import authority, cloud_options, connected, tenant_of
from plenum.cli.console import choose_output, write_json
from plenum.cli.sentences import write_sentences
from plenum.cli.tables import Column, write_table
from plenum.model.errors import FieldError, PlenumError

if TYPE_CHECKING:
    from ssl import SSLContext

    from plenum.gateway.figures import Figures, Interval

TIMEOUT_S = 10.0


class GatewayError(PlenumError):
    """The gateway does not answer as it should."""

    code = "gateway.unreachable"


@click.command()
@click.option("--url", envvar="PLENUM_GATEWAY", help="Of one gateway.  [default: all of the cloud's]")
@click.option("--key", default="", envvar="PLENUM_KEY", help="Inference key; better in $PLENUM_KEY than here.")
@choose_output
@cloud_options
def command(url: str | None, key: str, output: str, context: str | None, tenant: str | None) -> None:
    """List a tenant's experiments: of each arm its requests, tokens, latency, cost and quality, and which is the cheapest that will do.

    Experiments stand in the tenant's manifest (spec.experiments), which its admins may change at any time. Answers carry their arm in
    x-plenum-variant, and POST /v1/scores, at any gateway, takes {"request_id": the answer's x-request-id, "score": 0 to 1}; a judge
    scores a sample by itself. Intervals of quality hold with 95 % for all arms together, however often one looks.
    """
    urls = [url] if url else []
    if not url:
        with connected(context) as client:
            key = key or key_for(client, tenant_of(client, tenant))
            urls = sorted({gateway["url"] for gateway in client.get("/gateways")["items"] if gateway["url"]})
    if not urls:
        raise FieldError("--url", "says which gateway; the control plane has heard of none")
    from plenum.adapters.authorities import trusting

    trusted = trusting(authority(context), beside_system=True)
    found = together([_asked(each, key, trusted) for each in urls])
    if output == "json":
        write_json(found)
    elif not found:
        click.echo("There are no experiments; `plenum schema Tenant` shows how spec.experiments is written.")
    else:
        _print(found, len(urls))


def together(answers: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return experiments as all gateways saw them, with the verdict on the whole.

    Parameters
    ----------
    answers
        Of each gateway, what ``/v1/experiments`` says.
    """
    from plenum.gateway.variants import summary

    found: dict[str, dict[str, Any]] = {}
    sums: dict[str, dict[str, Figures]] = {}
    for each in (each for answer in answers for each in answer):
        known = found.setdefault(each["id"], each)
        figures = sums.setdefault(each["id"], {arm["name"]: _none() for arm in known["arms"]})
        for arm in each["arms"]:
            if arm["name"] in figures:  # else this gateway has an older table, or a newer one
                figures[arm["name"]].add(_figures(arm))
    for name, each in found.items():
        priced = all(arm["priced"] for arm in each["arms"])
        each |= summary(sums[name], each["good_enough"], judged=bool(each["judge"]), priced=priced)
        for arm in each["arms"]:
            arm["sums"] = {field: getattr(sums[name][arm["name"]], field) for field in arm["sums"]}
    return list(found.values())


def _none() -> Figures:
    from plenum.gateway.figures import Figures

    return Figures()


def _figures(arm: dict[str, Any]) -> Figures:
    import msgspec

    from plenum.gateway.figures import Figures

    return msgspec.convert(arm["sums"], Figures)


def _asked(url: str, key: str, trusted: SSLContext) -> list[dict[str, Any]]:
    import httpx

    base = url.rstrip("/").removesuffix("/v1")
    try:
        headers = {"Authorization": f"Bearer {key}"}
        answer = httpx.get(
            f"{base}/v1/experiments", headers=headers, timeout=TIMEOUT_S, trust_env=False, verify=trusted
        )
        said = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise GatewayError(
            f"the gateway at {base} does not answer ({type(error).__name__}), and without its part the figures would mislead; "
            "--url asks one gateway alone"
        ) from None
    if answer.status_code != 200:
        raise GatewayError(str(said.get("error", {}).get("message", answer.status_code)))
    return said["data"]


def _print(found: list[dict[str, Any]], gateways: int) -> None:
    heads = ("REQUESTS", "FAILED", "PROMPT", "OUTPUT", "TTFT", "TOTAL", "COST/1000", "SCORE", "JUDGED")
    columns = [Column(head="EXPERIMENT"), Column(head="ARM"), Column(head="MODEL", fold=True)]
    columns += [Column(head=head, right=True) for head in heads]
    write_table(columns, [_cells(each, arm) for each in found for arm in each["arms"]])
    for each in found:
        bar = f" (at least {each['good_enough']:g})" if each["good_enough"] else ""
        left = sum(arm["sums"]["unjudged"] for arm in each["arms"])
        unjudged = f" {left:,} answers of the sample have no grade of the judge's." if left else ""
        write_sentences(f"{each['id']}{bar}: {each['verdict']}.{unjudged}")
    if gateways > 1:
        write_sentences(f"Sums of {gateways} gateways.")


def _cells(each: dict[str, Any], arm: dict[str, Any]) -> tuple[object, ...]:
    figures, arms = _figures(arm), len(each["arms"])
    cost = figures.mean("cost") if arm["priced"] else None
    return (
        each["id"],
        f"{arm['name']} ({arm['weight']:g})",
        arm["model"],
        figures.requests,
        figures.failed,
        _number(figures.mean("prompt_tokens")),
        _number(figures.mean("output_tokens")),
        _time(figures.mean("ttft_s")),
        _time(figures.mean("total_s")),
        _number(None if cost is None else cost * 1_000),
        _quality(figures.quality(False, arms), figures.scores),
        _quality(figures.quality(True, arms), figures.judged),
    )


def _quality(found: Interval, count: int) -> str:
    return "-" if found.mean is None else f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}] of {count:,}"


def _number(amount: float | None) -> str:
    return "-" if amount is None else f"{amount:.3g}"


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:,.0f} ms" if seconds < 10 else f"{seconds:,.1f} s"
