"""The long run: ``python -m tests.chaos --seed 1 --minutes 10``; status 1 when an invariant fails, naming it."""

from __future__ import annotations

import argparse
import asyncio
import logging
import shutil
import sys
import time
from pathlib import Path
from tempfile import mkdtemp

from tests.chaos.run import Orders, Verdict, a_champion, burn
from tests.chaos.schedule import long_mix, schedule

OUTCOMES_A_MINUTE, REQUESTS_A_MINUTE = 21_000, 22
LEAST_OUTCOMES, LEAST_REQUESTS = 200_000, 200


def main() -> int:
    """Run, and print the schedule, what was broken when, and the verdict."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=10.0, help="length of the stream (default: %(default)s)")
    parser.add_argument(
        "--home", type=Path, help="an empty folder to keep data and logs in (default: a fresh one, removed if all holds)"
    )
    chosen = parser.parse_args()
    home = (chosen.home or Path(mkdtemp(prefix="twinstream-fire-"))).resolve()
    orders = _orders(chosen.seed, chosen.minutes)
    _say(f"seed {orders.seed}, {orders.outcomes:,} events and {orders.requests} requests in {orders.seconds:g} s")
    _say(f"data and logs: {home}")
    _say("\n".join(["the schedule:", *map(str, orders.faults)]))
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # that the broker is away now and then is what we want
    began = time.monotonic()
    home.mkdir(exist_ok=True)
    champion = a_champion(f"sqlite:///{home / 'mlflow.db'}")
    verdict = asyncio.run(burn(home, orders, champion, lambda line: _say(f"[{time.monotonic() - began:6.1f} s] {line}")))
    _say(format_text(verdict))
    if verdict.breaches:
        _say(f"data and logs: {home}")
        return 1
    if chosen.home is None:
        shutil.rmtree(home)
    return 0


def format_text(verdict: Verdict) -> str:
    """The verdict for people."""
    found = ", ".join(f"{count:,} {name}" for name, count in verdict.counts.items())
    told = ["what was broken when:", *verdict.done, f"found: {found}", *verdict.facts]
    if not verdict.breaches:
        return "\n".join([*told, "VERDICT: every invariant holds"])
    broken = [
        line for name, words in verdict.breaches.items() for line in (f"VERDICT: broken: {name}", *(f"  {word}" for word in words))
    ]
    return "\n".join([*told, *broken])


def _orders(seed: int, minutes: float) -> Orders:
    return Orders(
        seed=seed,
        seconds=60 * minutes,
        outcomes=max(LEAST_OUTCOMES, round(OUTCOMES_A_MINUTE * minutes)),
        requests=max(LEAST_REQUESTS, round(REQUESTS_A_MINUTE * minutes)),
        faults=schedule(seed, minutes, long_mix(minutes)),
    )


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
