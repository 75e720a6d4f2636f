"""The way from a machine's own process (an agent, a gateway) to the control plane: finds the replica that leads and stays with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from plenum.adapters.authorities import trusting
from plenum.adapters.contexts import is_loopback
from plenum.model.errors import FieldError, PlenumError

TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 64 * 2**20


class UnreachableError(PlenumError):
    """No control plane answers, or none that leads."""

    code = "control.unreachable"


class UntrustedError(UnreachableError):
    """What answers is not certified by the authority that is trusted here."""

    code = "control.untrusted"


class NotAllowedError(PlenumError):
    """The control plane answers, and refuses for good."""

    code = "control.refused"

    def __init__(self, sentence: str, problem: str = "", status: int = 0) -> None:
        super().__init__(sentence)
        self.problem, self.status = problem, status


def check_servers(servers: Sequence[str], option: str = "--server") -> None:
    """Raise FieldError unless all are addresses that a token may be sent to."""
    for url in servers:
        parts = urlsplit(url)
        if parts.scheme not in ("https", "http") or not parts.hostname:
            raise FieldError(option, f"{url!r} is not an address such as https://control.example:7070")
        if parts.scheme == "http" and not is_loopback(parts.hostname):
            raise FieldError(option, f"{url} is plain HTTP; a token travels over HTTPS only (loopback aside)")
    if not servers:
        raise FieldError(option, "give the address of a control plane")


class ControlLink:
    """Asks whichever replica of the control plane answers and leads.

    Parameters
    ----------
    servers
        URLs of its replicas.
    ca
        File of the authority that signed their certificates; None: the system's.
    name
        Of this program, as ``User-Agent``.
    """

    def __init__(self, servers: Sequence[str], ca: Path | None, name: str) -> None:
        self._servers = tuple(url.rstrip("/") for url in servers)
        self._ca = ca
        self._at = 0
        self._leader = ""
        self._client = httpx.AsyncClient(
            verify=trusting(ca),
            timeout=TIMEOUT_S,
            follow_redirects=False,
            trust_env=not all(is_loopback(urlsplit(url).hostname or "") for url in servers),
            headers={"User-Agent": name},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    @property
    def server(self) -> str:
        """The replica that is asked next."""
        return self._leader or self._servers[self._at % len(self._servers)]

    async def ask(
        self,
        method: str,
        path: str,
        token: str,
        body: bytes | None = None,
        *,
        params: Mapping[str, str | int | float] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> tuple[int, bytes]:
        """Send one request to one replica; returns status and body of its answer, 2xx or 304.

        Raises
        ------
        UnreachableError
            It does not answer, does not lead, or is too busy; another one is asked next time.
        UntrustedError
            Whoever answers is not to be trusted.
        NotAllowedError
            It refuses, and would again.
        """
        headers = {"Authorization": f"Bearer {token}", **({"Content-Type": "application/json"} if body else {})}
        server = self.server
        try:
            answer = await self._client.request(
                method, server + path, content=body, headers=headers, params=params, timeout=timeout_s
            )
        except httpx.HTTPError as error:
            raise self._away(error) from None
        if answer.is_success or answer.status_code == 304:
            if len(answer.content) > MAX_ANSWER_BYTES:
                raise UnreachableError(f"{server} gave an answer of {len(answer.content):,} bytes, more than is taken")
            return answer.status_code, answer.content
        problem = _problem(answer)
        if problem.get("code") == "control.not-leader" and str(problem.get("leader")).rstrip("/") in self._servers:
            # Only those that it was told of at its start get its token.
            self._leader = str(problem["leader"]).rstrip("/")
            raise UnreachableError(f"{answer.url.host} does not lead; asking {self._leader}")
        detail = str(problem.get("detail", answer.status_code))
        if 400 <= answer.status_code < 500 and answer.status_code not in (408, 429):
            sentence = f"{server} refuses: {detail}"
            raise NotAllowedError(sentence, str(problem.get("code", "")), answer.status_code)
        self._next()
        raise UnreachableError(f"{server} answered {answer.status_code}: {detail}")

    def _away(self, error: httpx.HTTPError) -> UnreachableError:
        server = self._next()
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            known = f"the authority in {self._ca}" if self._ca else "an authority that this system knows"
            return UntrustedError(f"{server} is not certified by {known}; name its authority with --ca FILE")
        return UnreachableError(f"{server} does not answer ({type(error).__name__}); trying again")

    def _next(self) -> str:
        """Turn to the next replica; returns the one turned away from."""
        before = self.server
        self._leader = ""
        self._at += 1
        return before


def _problem(answer: httpx.Response) -> dict[str, Any]:
    with suppress(ValueError):
        found = answer.json()
        if isinstance(found, dict):
            return found
    return {}
