"""``python -m streams`` is ``twinstream``."""

from streams.cli import main

main(prog_name="twinstream")
