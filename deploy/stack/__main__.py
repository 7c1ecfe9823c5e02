"""The local stack from a shell: in the foreground until Ctrl-C, or just the jars."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from deploy.stack import LocalStack, StackError, fetch_jars

__all__ = ["main"]


def main() -> int:
    """Run it; 1 with one line on stderr where it cannot."""
    parser = argparse.ArgumentParser(prog="python -m deploy.stack", description=__doc__)
    parser.add_argument(
        "action", nargs="?", choices=["run", "fetch"], default="run", help="run the stack (default), or fetch Kafka's jars"
    )
    parser.add_argument("--home", type=Path, default=Path(".twinstream"), help="folder of its data and logs (default: %(default)s)")
    chosen = parser.parse_args()
    try:
        _fetch() if chosen.action == "fetch" else _run(chosen.home)
    except KeyboardInterrupt:
        _say("stopped")
    except StackError as refusal:
        print(refusal, file=sys.stderr)
        return 1
    return 0


def _fetch() -> None:
    _say(f"verified: {fetch_jars(_say)}")


def _run(home: Path) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with LocalStack(home, _say) as stack:
        for name, value in stack.environment().items():
            _say(f"export {name}={value}")
        _say("running until Ctrl-C")
        signal.pause()


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
