"""What Alembic runs: the migrations, on the connection that :mod:`plenum.adapters.stores.upgrade` hands over."""

from alembic import context

from plenum.adapters.stores.tables import METADATA, VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
