"""The log: records, command keys, and the row that says where it ends and who leads."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

POSITION = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create the tables and the one row of ``log_head``."""
    op.create_table(
        "records",
        sa.Column("position", POSITION, autoincrement=False, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("trace", sa.Text, nullable=False),
        sa.Column("audit", sa.Boolean, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("position", name="pk_records"),
    )
    op.create_index("ix_records_subject", "records", ["subject", "position"])
    op.create_index("ix_records_tenant", "records", ["tenant", "position"])
    op.create_table(
        "command_keys",
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_command_keys"),
    )
    op.create_index("ix_command_keys_at", "command_keys", ["at"])
    head = op.create_table(
        "log_head",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("term", sa.BigInteger, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("ttl_s", sa.Double, nullable=False),
        sa.Column("lapses_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_log_head"),
        sa.CheckConstraint("id = 1", name="ck_log_head_one_row"),
    )
    row = {"id": 1, "position": 0, "term": 0, "holder": "", "address": "", "ttl_s": 0.0, "lapses_at": 0.0}
    op.bulk_insert(head, [row])
