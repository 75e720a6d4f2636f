"""Snapshots, and how far compaction has gone."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

POSITION = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create the table of snapshots; nothing is compacted yet."""
    op.create_table(
        "snapshots",
        sa.Column("position", POSITION, autoincrement=False, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("position", name="pk_snapshots"),
    )
    op.add_column("log_head", sa.Column("base", sa.BigInteger, nullable=False, server_default="0"))
