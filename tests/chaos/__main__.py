"""A long chaos run: ``python -m tests.chaos --seed 1 --minutes 10``; exit status 1, naming the invariant, when one is violated."""

from __future__ import annotations

import argparse
import asyncio
import logging
import shutil
import sys
import time
from pathlib import Path
from tempfile import mkdtemp

from streams.settings import EVENT_ROLES
from tests.chaos.run import RunOptions, RunReport, run_chaos, train_champion
from tests.chaos.schedule import long_mix, schedule
from tests.mlflow_server import MlflowServer

OUTCOMES_PER_MINUTE, REQUESTS_PER_MINUTE = 21_000, 22
MIN_OUTCOMES, MIN_REQUESTS = 200_000, 200
HISTORY = 218_000
HOSTILE_PER_MINUTE, BATCHES_PER_MINUTE = 1_000, 20


def main() -> int:
    """Run, and print the schedule, the injected faults and the result."""
    arguments = _parser().parse_args()
    home = (arguments.home or Path(mkdtemp(prefix="twinstream-chaos-"))).resolve()
    options = _run_options(arguments.seed, arguments.minutes)
    _print(f"seed {options.seed}, {options.outcomes:,} events and {options.requests} requests in {options.seconds:g} s")
    _print(f"data and logs: {home}")
    _print("\n".join(["scheduled faults:", *map(str, options.faults)]))
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # its errors about the absent broker are part of the plan
    report = _run(home, options)
    _print(format_text(report))
    if report.violations:
        _print(f"data and logs: {home}")
        return 1
    if arguments.home is None:
        shutil.rmtree(home)
    return 0


def format_text(report: RunReport) -> str:
    """The report as lines of text."""
    counts = ", ".join(f"{count:,} {name}" for name, count in report.counts.items())
    lines = ["injected faults:", *report.faults, f"counts: {counts}", *report.measurements]
    for name, sentences in report.violations.items():
        lines += [f"RESULT: violated: {name}", *(f"  {sentence}" for sentence in sentences)]
    if not report.violations:
        lines.append("RESULT: every invariant holds")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=10.0, help="length of the stream (default: %(default)s)")
    parser.add_argument(
        "--home", type=Path, help="an empty folder for data and logs (default: a new one, removed when every invariant holds)"
    )
    return parser


def _run_options(seed: int, minutes: float) -> RunOptions:
    return RunOptions(
        seed=seed,
        seconds=60 * minutes,
        outcomes=max(MIN_OUTCOMES, round(OUTCOMES_PER_MINUTE * minutes)),
        requests=max(MIN_REQUESTS, round(REQUESTS_PER_MINUTE * minutes)),
        faults=schedule(seed, minutes, long_mix(minutes)),
        roles=EVENT_ROLES,
        hostile=round(HOSTILE_PER_MINUTE * minutes),
        batches=round(BATCHES_PER_MINUTE * minutes),
        history=HISTORY,
    )


def _run(home: Path, options: RunOptions) -> RunReport:
    began = time.monotonic()
    home.mkdir(exist_ok=True)
    with MlflowServer(home / "mlflow") as server:
        champion = train_champion(server.uri, server)
        return asyncio.run(run_chaos(home, options, champion, lambda line: _print(f"[{time.monotonic() - began:6.1f} s] {line}")))


def _print(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
