"""``python -m streams`` is ``twinstream``."""

from streams.cli.main import main

main(prog_name="twinstream")
