"""The event log on disk: one store over SQLite and PostgreSQL, its migrations, its backups.

Way in: :func:`~plenum.adapters.stores.opening.open_store`, :func:`~plenum.adapters.stores.backups.restore_backup`.
Drivers and migrations are loaded when a database needs them, not before.
"""
