"""What a control plane or an agent needs to know to start, and where it keeps things."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import platform
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from plenum.control.protocol import LEASE_S, MAX_LEASE_S, MIN_LEASE_S
from plenum.model.errors import FieldError, FileError, Where

DEFAULT_PORT = 7070
MIN_SECRET = 32

_ODD = re.compile(r"[^a-z0-9.-]+")


def data_home() -> Path:
    """Return where data goes unless told otherwise: ``$PLENUM_HOME``, else ``plenum`` in the user's data folder."""
    if home := os.environ.get("PLENUM_HOME"):
        return Path(home)
    return Path(os.environ.get("XDG_DATA_HOME") or Path("~/.local/share").expanduser()) / "plenum"


def host_name() -> str:
    """Return this host's name as the name of a node."""
    return _ODD.sub("-", platform.node().lower()).strip("-.")[:63] or "localhost"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """A control plane.

    Parameters
    ----------
    data
        Folder of the log, keys and local runs; made if absent, for this user only.
    store
        URL of the event store; empty: SQLite in ``data``.
    name
        Of this replica among all.
    public
        Host name or address that agents and other replicas reach this one by.
    tls
        False: plain HTTP, on loopback only.
    certificate, key
        Files of a certificate of one's own; empty: one from a CA in ``data`` is made and renewed.
    local_node
        Whether this host's own cores run jobs.
    api_settings
        TOML file of :class:`plenum.api.settings.ApiSettings`: rates, limits, issuers of JWTs; None: the defaults.
    lease_s
        How long agents, and what they run, may go on without an answer.
    engine_secret
        File of the secret that keys of engines are derived from, the same for all replicas of the control plane; None: one in ``data``.
    gateway_port
        Of the gateway on this machine, which is started with the first endpoint; None: no gateway is started here.
    gateway_host
        Address that it listens on. Beyond this host it speaks TLS, with the certificate above or one from the CA in ``data``.
    gateway_plain
        Whether it speaks plain HTTP there nevertheless.
    gateway_settings
        Its TOML file of :class:`plenum.gateway.settings.GatewaySettings`.
    """

    data: Path = field(default_factory=data_home)
    store: str = ""
    name: str = ""
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    public: str = ""
    tls: bool = True
    certificate: Path | None = None
    key: Path | None = None
    local_node: bool = False
    api_settings: Path | None = None
    lease_s: float = LEASE_S
    engine_secret: Path | None = None
    gateway_port: int | None = None
    gateway_host: str = "127.0.0.1"
    gateway_plain: bool = False
    gateway_settings: Path | None = None

    def __post_init__(self) -> None:
        if not MIN_LEASE_S <= self.lease_s <= MAX_LEASE_S:
            raise FieldError(
                "--lease", f"must be from {MIN_LEASE_S:g} s to {MAX_LEASE_S / 60:g} minutes, not {self.lease_s:g} s"
            )
        if not 0 <= self.port <= 65_535:
            raise FieldError("--port", f"must be from 0 (any free one) to 65535, not {self.port}")
        if not self.tls and not is_loopback(self.host):
            raise FieldError(
                "--no-tls",
                f"goes with a loopback address only, not with {self.host}: tokens would cross the network in the clear",
            )
        if (self.certificate is None) != (self.key is None):
            raise FieldError("--certificate", "give both a certificate and its key, or neither")

    @property
    def store_url(self) -> str:
        """The event store's URL."""
        return self.store or f"sqlite:///{(self.data / 'plenum.db').absolute()}"

    @property
    def shared_store(self) -> bool:
        """Whether other replicas may use the same store."""
        return self.store_url.startswith("postgresql")

    def address(self, port: int) -> str:
        """Return the URL that others reach this control plane by."""
        host = self.public or ("127.0.0.1" if self.host in ("0.0.0.0", "::", "localhost") else self.host)
        return f"{'https' if self.tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether an address is this host's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def private_folder(path: Path) -> Path:
    """Return a folder that only this user can read, made if absent.

    Raises
    ------
    FileError
        It cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise FileError(f"cannot be made a folder: {error.strerror or error}", Where(file=str(path))) from None
    return path


def instance_of(folder: Path) -> str:
    """Return what tells a data folder from every other, copies of it included; the same whenever it is asked for."""
    file = folder / "instance"
    if not file.exists():
        write_private(file, secrets.token_hex(16).encode())
    there = folder.stat()
    return hashlib.sha256(b"%s %d %d" % (file.read_bytes(), there.st_dev, there.st_ino)).hexdigest()[:32]


def journal_instance_of(data: Path) -> str:
    """Return what tells the journal of usage in a data folder from any that was there before: each counts its batches from 1.

    One from before journals were told apart goes by the folder around it, as the control plane knows it.
    """
    folder = data / "journal"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    named = (folder / "instance").exists() or not any(folder.glob("*.rows"))
    return instance_of(folder if named else data)


def secret_of(file: Path) -> str:
    """Return the secret in a file, made if absent; it is in no log.

    Raises
    ------
    FileError
        It cannot be read, or is too short to be one.
    """
    try:
        if not file.exists():
            write_private(file, secrets.token_hex(32).encode())
        text = file.read_text("ascii").strip()
    except (OSError, ValueError) as error:
        raise FileError(f"cannot be read as a secret: {error}", Where(file=str(file))) from None
    if len(text) < MIN_SECRET:
        raise FileError(f"is too short for a secret: at least {MIN_SECRET} characters", Where(file=str(file)))
    return text


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only this user can read, whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)
