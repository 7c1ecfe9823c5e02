"""Makes ``python -m streams`` the same as ``twinstream``."""

from streams.cli import main

main()
