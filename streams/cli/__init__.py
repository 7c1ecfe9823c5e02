"""The command line ``twinstream``.

It may import every other package; each command imports what it needs when it runs, so that ``--help`` and ``--version`` answer
at once.
"""

from streams.cli.main import main

__all__ = ["main"]
