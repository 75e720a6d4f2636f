"""How to ask a model: where the gateway is, with which key, and the lines to paste."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plenum.adapters.client import Client

QUESTION = "What is a data centre? One sentence."


def gateway_url(client: Client, default: str = "") -> str:
    """Return where the gateway is that was heard of last; ``default`` where none was."""
    found = client.get("/gateways")["items"]
    return max(found, key=lambda gateway: gateway["seenAt"])["url"] if found else default


def key_for(client: Client, tenant: str) -> str:
    """Return a key for a tenant's models: the one that was saved, or the first time, a new one.

    Raises
    ------
    ProblemError
        One may not have any.
    """
    from plenum.adapters.client import ProblemError, part
    from plenum.adapters.contexts import save_key, saved_key

    name = client.context.name
    saved = saved_key(name, tenant) if name else ""
    if saved:
        try:
            key_id = saved.split("_")[1]
            if client.get(f"/tenants/{part(tenant)}/keys/{part(key_id)}")["status"]["phase"] == "Valid":
                return saved
        except (ProblemError, IndexError):
            pass  # revoked, or of another life of this control plane
    secret = client.post(f"/tenants/{part(tenant)}/keys", {"note": "made by plenum serve"})["secret"]
    if name:
        save_key(name, tenant, secret)
    return secret


def curl(url: str, key: str, model: str, *, embeddings: bool = False, ca: str = "") -> str:
    """Return one command that streams an answer; no line of it has more than 80 characters where key and URL are ours.

    Parameters
    ----------
    ca
        File of the authority that the gateway is checked by; empty: the system's.
    """
    path, body = "/v1/chat/completions", {"model": model, "stream": True, "messages": []}
    if embeddings:
        path, body = "/v1/embeddings", {"model": model, "input": QUESTION}
        text = json.dumps(body)
    else:
        # Split where the shell does not mind.
        head = json.dumps(body)[:-2]
        text = f"{head}\n  {json.dumps({'role': 'user', 'content': QUESTION})}]}}"
    trust = f"  --cacert {shlex.quote(ca)} \\\n" if ca else ""
    return (
        f"curl -N {url}{path} \\\n{trust}  -H 'Authorization: Bearer {key}' \\\n"
        f"  -H 'Content-Type: application/json' \\\n  -d '{text}'"
    )


def openai_lines(url: str, key: str, model: str, *, ca: str = "") -> str:
    """Return the lines that ask with OpenAI's Python client; ``ca`` as of :func:`curl`."""
    imports, trust = "from openai import OpenAI\n", ""
    if ca:
        imports = "import ssl\nfrom openai import DefaultHttpxClient, OpenAI\n"
        trust = (
            f"    http_client=DefaultHttpxClient(verify=ssl.create_default_context(\n        cafile={ca!r},\n    )),\n"
        )
    return (
        f"{imports}client = OpenAI(\n    base_url={url + '/v1'!r},\n    api_key={key!r},\n{trust})\n"
        f"for part in client.chat.completions.create(\n    model={model!r}, stream=True,\n"
        f"    messages=[\n        {{'role': 'user', 'content': {QUESTION!r}}},\n    ],\n):\n"
        f"    print(part.choices[0].delta.content or '', end='', flush=True)"
    )
