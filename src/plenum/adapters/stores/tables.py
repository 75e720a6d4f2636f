"""The tables of the log, as the newest revision has them; a test holds the migrations to this."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

REVISIONS = ("0001", "0002")
"""Every revision that this code knows, oldest first; the last is the one it works with."""

VERSION_TABLE = "plenum_revision"
HEAD_ID = 1

# SQLite takes only INTEGER as another name of its row id, which saves an index; it holds 64 bits all the same.
POSITION = BigInteger().with_variant(Integer, "sqlite")

METADATA = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_N_label)s",
        "pk": "pk_%(table_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

RECORDS = Table(
    "records",
    METADATA,
    Column("position", POSITION, primary_key=True, autoincrement=False),
    Column("at", Double, nullable=False),
    Column("type", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("subject", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("trace", Text, nullable=False),
    Column("audit", Boolean, nullable=False),
    Column("body", Text, nullable=False),
    Index("ix_records_subject", "subject", "position"),
    Index("ix_records_tenant", "tenant", "position"),
)

COMMAND_KEYS = Table(
    "command_keys",
    METADATA,
    Column("key", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("at", Double, nullable=False),
    Index("ix_command_keys_at", "at"),
)

SNAPSHOTS = Table(
    "snapshots",
    METADATA,
    Column("position", POSITION, primary_key=True, autoincrement=False),
    Column("digest", Text, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

HEAD = Table(
    "log_head",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("position", BigInteger, nullable=False),
    Column("term", BigInteger, nullable=False),
    Column("holder", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("ttl_s", Double, nullable=False),
    Column("lapses_at", Double, nullable=False),
    Column("base", BigInteger, nullable=False, server_default="0"),
    CheckConstraint(f"id = {HEAD_ID}", name="one_row"),
)
"""One row: where the log ends, what compaction has cut off, who leads until when (by the database's own clock)."""
