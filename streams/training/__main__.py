"""Entry point of the training process: ``python -m streams.training FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

from streams.training.training_child import run

if __name__ == "__main__":
    run(Path(sys.argv[1]))
