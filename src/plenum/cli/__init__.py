"""The ``plenum`` command: thin; each command is one file, imported when it is called.

Way in: :func:`main`. Exit codes: 0 done, 1 the answer is no (nothing fits, a finding), 2 bad input.
"""

from plenum.cli.root import main

__all__ = ["main"]
