"""``python -m plenum`` is ``plenum``."""

from plenum.cli import main

main()
