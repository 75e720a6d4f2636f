"""Alembic migrations of the log; :mod:`plenum.adapters.stores.upgrade` runs them when a store is opened."""
