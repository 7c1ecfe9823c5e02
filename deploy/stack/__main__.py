"""Runs the local stack in the foreground until Ctrl-C, or only fetches Kafka's jars."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from deploy.stack import LocalStack, StackError, fetch_jars

__all__ = ["main"]


def main() -> int:
    """Run the command; on an error print one line to stderr and return 1."""
    parser = argparse.ArgumentParser(prog="python -m deploy.stack", description=__doc__)
    parser.add_argument(
        "action", nargs="?", choices=["run", "fetch"], default="run", help="run the stack (default), or fetch Kafka's jars"
    )
    parser.add_argument("--home", type=Path, default=Path(".twinstream"), help="folder of the data and logs (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        _fetch() if arguments.action == "fetch" else _run(arguments.home)
    except KeyboardInterrupt:
        _print("stopped")
    except StackError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _fetch() -> None:
    _print(f"verified: {fetch_jars(_print)}")


def _run(home: Path) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with LocalStack(home, _print) as stack:
        for name, value in stack.environment().items():
            _print(f"export {name}={value}")
        _print("running; press Ctrl-C to stop")
        signal.pause()


def _print(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
