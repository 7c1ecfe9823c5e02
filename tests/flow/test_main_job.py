"""The demonstration, from the first event to a promoted model, on its own Kafka and Postgres."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from deploy.stack import free_port
from engine.sample_tables import sample_table
from schemas import AnswerStatus, Brand, TwinType
from streams.demo.report import DemoReport
from streams.demo.run import DEMO_SETTINGS, run_demo
from streams.demo.scenario import Pace
from streams.operations.verify import verify
from streams.settings import EVENT_ROLES, PORTS, Settings
from streams.web.assets import CHART_LIBRARY, asset
from streams.worker.local_stack import local_stack
from streams.worker.supervisor import Workers

# the shifted outcomes end with the promotion, which a busy machine delays
SHORT = Pace(rate=200.0, unshifted=1_500, max_shifted=80_000, after_promotion=1_500)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> DemoReport:
    settings = Settings(home=tmp_path_factory.mktemp("home"))
    return run_demo(settings, None, TwinType.HCP, Brand.KISQALI, print, rows=6_000, pace=SHORT)


def test_every_request_is_answered_and_the_one_without_matching_twins_is_rejected(report: DemoReport) -> None:
    statuses = [answer.status for answer in report.run.answers]
    assert statuses == [AnswerStatus.COMPLETED] * 6 + [AnswerStatus.REJECTED]
    assert "region" in str(report.run.answers[-1].reason)


def test_the_injected_shift_leads_to_one_retrain_and_a_promotion(report: DemoReport) -> None:
    line = report.run.line_overview
    assert line is not None
    retrains = [retrain for retrain in line.retrains if retrain.model_id == report.run.first_model.model_id]
    trained = [retrain for retrain in retrains if retrain.status != "stale"]
    assert [retrain.status for retrain in trained] == ["promoted"]
    assert "mae" in trained[0].reason.lower()
    assert report.run.promoted is not None


def test_the_new_model_has_a_smaller_error_than_the_old_one_on_the_shifted_stream(report: DemoReport) -> None:
    before, old, new = (
        report.fidelity[name].mae
        for name in ("first model before the shift", "first model under the shift", "new model under the shift")
    )
    assert before is not None
    assert old is not None
    assert new is not None
    assert old > 1.2 * before
    assert new < 0.9 * old


def test_every_count_agrees_with_the_database(report: DemoReport) -> None:
    assert report.verification.mismatches == ()
    assert report.run.published == sum(count for name, count in report.verification.counts.items() if name == "elements")
    assert report.succeeded


def test_a_worker_was_killed_and_text_and_page_report_it(report: DemoReport) -> None:
    fault = report.run.fault
    assert fault is not None
    assert fault.published == SHORT.unshifted // 2
    assert fault.recovery_s is not None
    assert f"process {fault.pid} of the role outcomes was killed (SIGKILL)" in report.format_text()
    page = (report.home / "report.html").read_text(encoding="utf-8")
    assert f"process {fault.pid} of the role outcomes was killed (SIGKILL)" in page
    assert "worker killed" in page


def test_the_page_loads_nothing_and_has_markers_of_shift_and_promotion(report: DemoReport) -> None:
    page = (report.home / "report.html").read_text(encoding="utf-8")
    assert not re.search(r'(?:src|href)="(?!#)', page.replace(asset(CHART_LIBRARY).content, ""))
    assert page.count("<figure data-chart") >= 3
    assert "injected shift" in page
    assert "promoted" in page


def test_the_service_continues_on_the_data_of_the_demonstration(report: DemoReport) -> None:
    settings = Settings(**{**DEMO_SETTINGS, "home": report.home, "web_port": free_port(in_a_row=PORTS)})
    stack = local_stack(report.home, settings.model_copy(update={"home": report.home.parent}), print)
    with stack as running, Workers(EVENT_ROLES, running, log_folder=report.home / "logs") as workers:
        workers.wait_ready()
        assert asyncio.run(verify(running)).mismatches == ()


@pytest.mark.parametrize("step", ["starting Kafka", "requesting simulations"])
def test_ctrl_c_at_any_time_leaves_no_process_behind(tmp_path: Path, step: str) -> None:
    master, terminal = pty.openpty()
    environment = {**os.environ, "TWIN_HOME": str(tmp_path)}
    sample_table(TwinType.HCP, 2_000, np.random.default_rng(0)).to_csv(tmp_path / "table.csv", index=False)
    command = [sys.executable, "-m", "streams", "demo", "--data", str(tmp_path / "table.csv")]
    process = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment, start_new_session=True)
    os.close(terminal)
    try:
        output = _read_until(master, step, timeout_s=240)
        assert step in output, output
        time.sleep(1.0)
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does to its foreground group on Ctrl-C
        process.wait(timeout=60)
    finally:
        process.kill()
        os.close(master)
    deadline = time.monotonic() + 10
    while (remaining := _processes_about(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert remaining == {}


def _read_until(master: int, text: str, timeout_s: float) -> str:
    output, deadline = "", time.monotonic() + timeout_s
    while text not in output and time.monotonic() < deadline:
        if select.select([master], [], [], 1.0)[0]:
            try:
                output += os.read(master, 65_536).decode(errors="replace")
            except OSError:  # the process has closed its end
                break
    return output


def _processes_about(folder: Path) -> dict[int, str]:
    """Processes whose command line or environment names the folder."""
    processes = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            if str(folder).encode() in text and (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                processes[int(process.name)] = text.replace(b"\0", b" ").decode(errors="replace")[:200]
        except OSError:  # it has ended meanwhile
            continue
    return processes
