"""``plenum serve``: a model behind the gateway, in one command."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from plenum.cli.asking import curl, gateway_url, key_for, openai_lines
from plenum.cli.cloud import cloud_options, connected, tenant_of
from plenum.cli.complete import complete_hardware, complete_routing, complete_weights
from plenum.cli.console import choose_output, write_json
from plenum.cli.exits import NO
from plenum.cli.kinds import job_path, without_subject
from plenum.cli.patience import Patience, choose_timeout
from plenum.cli.tables import clean, terminal_width

if TYPE_CHECKING:
    from plenum.adapters.client import Client

POLL_S = 0.25
READY = ("Ready", "Updating", "Degraded", "Idle")
ENGINES = ("llamacpp", "vllm", "sglang", "emulated")


@click.command()
@click.argument("model", shell_complete=complete_weights)
@click.option("--name", help="Of the endpoint, and what clients write as model.  [default: from MODEL]")
@click.option("--engine", type=click.Choice(ENGINES), help="What serves it.  [default: llamacpp]")
@click.option("--replicas", metavar="N|MIN-MAX", help="How many, or between how many; 0-3 sleeps while nobody asks.")
@click.option("--slo-ttft", metavar="DURATION", help="Promise: time to the first token of 99 % of the requests.")
@click.option("--slo-tpot", metavar="DURATION", help="Promise: time per output token after it.")
@click.option("--gpu", type=float, help="GPUs of a replica, or a share of one.")
@click.option("--gpu-model", "gpu_models", multiple=True, shell_complete=complete_hardware, help="Only on such GPUs.")
@click.option("--cpu", help="Cores of a replica.")
@click.option("--memory", help="Memory of a replica, such as 4GiB.")
@click.option("--tp", type=click.IntRange(1), help="GPUs that a replica is split over (tensor parallel).")
@click.option("--context-limit", type=click.IntRange(1), help="Longest prompt and output together, in tokens.")
@click.option("--slots", type=click.IntRange(1), help="Requests that a replica works on at once.")
@click.option("--routing", shell_complete=complete_routing, help="Policy of routing, such as prefix-aware or session.")
@click.option("--attach", multiple=True, metavar="URL", help="A server that runs already; repeat it for several.")
@click.option(
    "--emulate",
    metavar="HARDWARE:MODEL",
    help="Serve nothing real: keep the timing of a model on an accelerator, such as H100:llama-3.1-8b.",
)
@click.option("--argument", "arguments", multiple=True, metavar="WORD", help="Added to the engine's command line.")
@click.option("--wait/--no-wait", default=True, help="Come back once it is ready.")
@choose_timeout("10m")
@choose_output
@cloud_options
def command(
    model: str, wait: bool, timeout: str, output: str, context: str | None, tenant: str | None, **options: Any
) -> None:
    """Serve MODEL, wait until it is ready, and print how to ask it.

    MODEL is a name of the catalogue (smollm2), the absolute path of a folder or GGUF file, or hf://, s3:// or oci://. Served again under
    the same name with other options, it is changed: a canary proves itself first.

    \b
    plenum serve smollm2
    plenum serve hf://Qwen/Qwen2.5-7B-Instruct --engine vllm --gpu 1 --replicas 1-4
    plenum serve llama --emulate H100:llama-3.1-8b --slo-ttft 500ms
    """
    from plenum.adapters.authorities import authority_for

    patience = Patience(timeout)
    with connected(context) as client:
        whose = tenant_of(client, tenant)
        manifest = manifest_of(model, options, whose)
        path = job_path("endpoints", whose, manifest["metadata"]["name"])
        endpoint = client.put(path, manifest).json()
        if wait:
            endpoint = _ready(client, path, patience)
        ready = endpoint["status"]["phase"] in READY
        url = _gateway(client, patience) if wait else gateway_url(client)
        key, ca = key_for(client, whose), authority_for(url, client.context.ca)
        served_as = endpoint["status"]["servedAs"]
    if output == "json":
        write_json({"endpoint": endpoint, "url": f"{url}/v1" if url else "", "key": key, "model": served_as, "ca": ca})
    elif wait and not ready:
        click.echo(_hint(endpoint, patience), err=True)
    else:
        _tell(endpoint, url, key, served_as, ca)
    sys.exit(0 if ready or not wait else NO)


def manifest_of(model: str, options: dict[str, Any], tenant: str) -> dict[str, Any]:
    """Return the manifest that the options say; what they leave out is left to its defaults."""
    attached = list(options["attach"]) or None
    words = {"gpu": options["gpu"], "cpu": options["cpu"], "memory": options["memory"]}
    resources = {name: _number(value) for name, value in words.items() if value is not None}
    slo = {name: options[f"slo_{name}"] for name in ("ttft", "tpot") if options[f"slo_{name}"]}
    engine, timing = options["engine"], None
    if options["emulate"]:
        hardware, colon, timed = options["emulate"].partition(":")
        if not colon or not hardware or not timed:
            raise click.BadParameter("write HARDWARE:MODEL, such as H100:llama-3.1-8b", param_hint="--emulate")
        engine, timing = engine or "emulated", {"model": timed, "hardware": hardware}
    spec = {
        "model": model,
        "engine": engine,
        "replicas": _replicas(options["replicas"]),
        "resources": resources or None,
        "gpuModels": list(options["gpu_models"]) or None,
        "parallelism": {"tp": options["tp"]} if options["tp"] else None,
        "slo": slo or None,
        "contextLimit": options["context_limit"],
        "slots": options["slots"],
        "routing": options["routing"],
        "attach": attached,
        "arguments": list(options["arguments"]) or None,
        "timing": timing,
    }
    return {
        "apiVersion": "plenum.dev/v1alpha1",
        "kind": "Endpoint",
        "metadata": {"name": options["name"] or name_of(model), "tenant": tenant},
        "spec": {key: value for key, value in spec.items() if value is not None},
    }


def name_of(model: str) -> str:
    """Return a name for a model's endpoint: the last part of where it is from, as names may be written."""
    import re

    last = model.rstrip("/").rpartition("/")[2].partition("@")[0].partition(":")[0].lower()
    return re.sub(r"[^a-z0-9.-]+", "-", last.removesuffix(".gguf"))[:40].strip("-.") or "model"


def _number(value: Any) -> Any:
    """Return what stands in a manifest for what was written: whole numbers as such, quantities with units as text."""
    text = str(value)
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if number.is_integer() else number


def _replicas(text: str | None) -> Any:
    if text is None:
        return None
    low, dash, high = text.partition("-")
    if not low.isdigit() or (dash and not high.isdigit()):
        raise click.BadParameter(f"{text!r} is no number, nor two such as 1-4", param_hint="--replicas")
    return {"min": int(low), "max": int(high)} if dash else int(low)


def _ready(client: Client, path: str, patience: Patience) -> dict[str, Any]:
    """Wait until an endpoint takes requests, and tell how far it is."""
    told = _Line()
    while True:
        endpoint = client.get(path)
        status = endpoint["status"]
        if status["phase"] in (*READY, "Failed") or status.get("failed") or patience.is_over():
            told.end()
            return endpoint
        if status.get("waiting"):
            # It may wait for longer than anybody looks on, and goes on to when this is interrupted.
            told.stay(f"plenum explain endpoint/{endpoint['metadata']['name']} tells what would let it start.")
        told.say(how_far(status, endpoint["metadata"]))
        time.sleep(POLL_S)


def how_far(status: dict[str, Any], meta: dict[str, Any]) -> str:
    """Return how far an endpoint is that is not ready, in a line."""
    waiting = status.get("waiting") or {}
    # It waits for a place, or has one and its engine is on its way.
    otherwise = "looking for a place" if status["phase"] == "Pending" else "its engine is being started"
    text = without_subject(waiting.get("sentence") or status.get("message") or "", meta)
    return f"{status['phase']}: {text.removeprefix('waits: ') or otherwise}"


def _gateway(client: Client, patience: Patience) -> str:
    """Return where the gateway is; one that is only just coming up is waited for."""
    end = time.monotonic() + min(patience.seconds, 10.0)
    while not (url := gateway_url(client)) and time.monotonic() < end:
        time.sleep(POLL_S)
    return url


class _Line:
    """A line on standard error that is written over, or where that is no terminal, one after another."""

    def __init__(self) -> None:
        self._shown = ""
        self._said: set[str] = set()
        self._width = terminal_width() or 80
        self._over = sys.stderr.isatty()

    def say(self, text: str) -> None:
        text = clean(text)
        if self._over:
            text = text if len(text) < self._width else f"{text[: self._width - 2]}…"
        # Where lines stay, what comes and goes with each attempt is said once.
        if text == self._shown or (not self._over and text in self._said):
            return
        self._shown = text
        self._said.add(text)
        click.echo(f"\r\033[K{text}" if self._over else text, err=True, nl=not self._over)

    def stay(self, text: str) -> None:
        """Say something once, in a line that stays."""
        if text not in self._said:
            self.end()
            self._shown = ""
            self._said.add(text)
            click.echo(text, err=True)

    def end(self) -> None:
        if self._over and self._shown:
            click.echo("\r\033[K", err=True, nl=False)


def _hint(endpoint: dict[str, Any], patience: Patience) -> str:
    meta, status = endpoint["metadata"], endpoint["status"]
    waits = (status.get("waiting") or {}).get("sentence", "")
    text = clean(without_subject(status.get("message") or waits, meta)).removeprefix("waits: ")
    ends = (
        f"did not come up: {text}"
        if status.get("failed") or status["phase"] == "Failed"
        else f"is not ready after {patience}: {text or 'it is still being tried'}"
    )
    more = f"explain endpoint/{meta['name']}" if waits else f"describe endpoint {meta['name']}"
    return f"{meta['tenant']}/{meta['name']} {ends}\nmore: plenum {more}"


def _tell(endpoint: dict[str, Any], url: str, key: str, model: str, ca: str) -> None:
    meta, status = endpoint["metadata"], endpoint["status"]
    counts = status["replicas"]
    what = f"{counts['running']} of {counts['wanted']} replicas ready"
    if status["phase"] == "Idle":
        what = "asleep; the first request wakes it"
    elif status["phase"] == "Updating":
        what += f", while the change is tried; plenum describe endpoint {meta['name']} tells how far it is"
    click.echo(f"{click.style(meta['name'], bold=True)} is {status['phase'].lower()}: {what}.")
    if not url:
        click.echo("No gateway has been heard of: plenum gateway runs one, and plenum up does by itself.")
        return
    lines = openai_lines(url, key, model, ca=ca)
    click.echo(f"\n{curl(url, key, model, ca=ca)}\n\nWith OpenAI's Python client:\n\n{lines}")
