"""The local stack: real servers that start, keep their data, stop with their parent and use only pinned jars."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import UnknownTopicOrPartitionError

from deploy.stack import LocalStack, StackError, running_stack
from deploy.stack.child import Steps, try_lock
from deploy.stack.jars import fetch_jars, manifest, verify_jars
from deploy.stack.local import choose_ports
from deploy.stack.part import Part

ROOT = Path(__file__).resolve().parents[3]
TETHER = ROOT / "deploy" / "stack" / "tether.py"
RUNS_A_STACK = """
import pathlib, signal, sys
from deploy.stack import LocalStack
LocalStack(pathlib.Path(sys.argv[1])).start()
signal.pause()
"""
ON_ANOTHER_SYSTEM = """
import runpy, sys
sys.platform = "elsewhere"
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
TETHERS_A_CHILD = """
import os, subprocess, sys, time
as_elsewhere, tether, child, pid_file = sys.argv[1:]
tethered = [sys.executable, "-c", as_elsewhere, tether, str(os.getpid()), "SIGTERM", "same", sys.executable, "-c", child, pid_file]
subprocess.Popen(tethered, start_new_session=True)
time.sleep(600)
"""
WRITES_ITS_PID = """
import os, pathlib, sys, time
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
time.sleep(600)
"""
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """A running stack; a test that stops a server of it starts it again."""
    with LocalStack(tmp_path_factory.mktemp("stack")) as stack:
        yield stack


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which tests start their own stacks, one after the other."""
    return tmp_path_factory.mktemp("home")


def wait_until(description: str, condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S:g} s: {description}"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def is_unlocked(folder: Path) -> bool:
    """Whether neither the server of a folder nor a child of it is running."""
    lock = try_lock(folder / "lock")
    if lock is None:
        return False
    os.close(lock)
    return True


async def create_topic(bootstrap: str, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
    finally:
        await admin.close()


async def publish(bootstrap: str, topic: str, value: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all") as producer:
        await producer.send_and_wait(topic, value)


async def read(bootstrap: str, topic: str, count: int) -> list[bytes]:
    async with AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer:
        return [(await consumer.getone()).value for _ in range(count)]


async def in_database(dsn: str, statement: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def test_stored_data_is_there_after_a_restart_in_the_same_folder(home: Path) -> None:
    with LocalStack(home) as stack:
        await create_topic(stack.kafka_bootstrap, "restarted")
        await publish(stack.kafka_bootstrap, "restarted", b"before")
        await in_database(stack.admin_dsn, "CREATE TABLE restarted AS SELECT 42 AS answer")
        addresses = stack.environment()
    with LocalStack(home) as stack:
        assert stack.environment() == addresses
        assert await read(stack.kafka_bootstrap, "restarted", 1) == [b"before"]
        assert await in_database(stack.admin_dsn, "SELECT answer FROM restarted") == 42


async def test_servers_start_again_on_their_ports_with_their_data_after_a_kill(stack: LocalStack) -> None:
    addresses = stack.environment()
    await create_topic(stack.kafka_bootstrap, "killed")
    await publish(stack.kafka_bootstrap, "killed", b"before")
    await in_database(stack.admin_dsn, "CREATE TABLE killed AS SELECT 7 AS answer")
    for part in (stack.kafka, stack.postgres):
        part.kill()
        assert not part.running
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", part.port))
        part.start()
    await publish(stack.kafka_bootstrap, "killed", b"after")
    assert stack.environment() == addresses
    assert await read(stack.kafka_bootstrap, "killed", 2) == [b"before", b"after"]
    assert await in_database(stack.admin_dsn, "SELECT answer FROM killed") == 7


async def test_servers_that_are_killed_from_outside_are_started_again_with_their_data(home: Path) -> None:
    notices: list[str] = []
    with LocalStack(home, notices.append) as stack:
        await create_topic(stack.kafka_bootstrap, "kept")
        await publish(stack.kafka_bootstrap, "kept", b"before")
        await in_database(stack.postgres_dsn, "SELECT 1")
        await in_database(stack.admin_dsn, "CREATE TABLE kept_twice AS SELECT 7 AS answer")
        addresses, parts = stack.environment(), (stack.kafka, stack.postgres)
        pids = [part.pid for part in parts]
        notices.clear()
        for pid in pids:
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
        wait_until("both have ended", lambda: len(stack.problems()) == 2)
        wait_until("both are ready again", lambda: not stack.problems())
        assert not {part.pid for part in parts} & {*pids, None}
        assert stack.environment() == addresses
        await publish(stack.kafka_bootstrap, "kept", b"after")
        assert await read(stack.kafka_bootstrap, "kept", 2) == [b"before", b"after"]
        assert await in_database(stack.admin_dsn, "SELECT answer FROM kept_twice") == 7
        assert sum("killed by SIGKILL" in notice for notice in notices) == 2
        assert sum("is ready again" in notice for notice in notices) == 2
        assert len(notices) == 4
    for part in ("kafka", "postgres"):
        assert is_unlocked(home / part)


async def test_the_database_refuses_connections_without_its_password(stack: LocalStack) -> None:
    address, _, name = stack.postgres_dsn.rpartition("/")
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(f"postgresql://twinstream:guess@{address.rpartition('@')[2]}/{name}")
    assert await in_database(stack.postgres_dsn, "SHOW listen_addresses") == "127.0.0.1"
    for secret in ("postgres/password", "postgres/logins.json", "stack.json"):
        assert (stack.home / secret).stat().st_mode & 0o077 == 0


async def test_a_topic_is_not_created_by_reading_it(stack: LocalStack) -> None:
    consumer = AIOKafkaConsumer("not-created", bootstrap_servers=stack.kafka_bootstrap, request_timeout_ms=2_000)
    try:
        with pytest.raises(UnknownTopicOrPartitionError):
            await consumer.start()
    finally:
        await consumer.stop()


def test_a_running_stack_is_found_and_a_second_start_names_its_process(stack: LocalStack) -> None:
    assert running_stack(stack.home) == stack.addresses
    with pytest.raises(StackError, match=f"already running in .*, started by process {os.getpid()}"):
        LocalStack(stack.home).start()
    assert running_stack(stack.home) == stack.addresses, "the refused start must not disturb the running one"


def test_a_server_whose_port_is_taken_is_refused_with_the_port(stack: LocalStack) -> None:
    stack.postgres.stop()
    port = stack.postgres.port
    with socket.create_server(("127.0.0.1", port)), pytest.raises(StackError, match=f"another program holds port {port}"):
        stack.postgres.start()
    stack.postgres.start()


def test_ports_stay_the_same_unless_another_program_uses_one(tmp_path: Path) -> None:
    first = choose_ports(tmp_path / "ports.json")
    assert len(set(first.values())) == len(first) == 3
    assert choose_ports(tmp_path / "ports.json") == first
    with socket.create_server(("127.0.0.1", first["kafka"])):
        second = choose_ports(tmp_path / "ports.json")
    assert second["kafka"] != first["kafka"]
    assert {name: port for name, port in second.items() if name != "kafka"} == {n: p for n, p in first.items() if n != "kafka"}
    assert choose_ports(tmp_path / "ports.json") == second


@pytest.fixture
def stack_process(home: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", RUNS_A_STACK, home], cwd=ROOT, stdout=subprocess.DEVNULL)
    yield process
    process.kill()
    process.wait()


def test_the_servers_end_with_a_killed_parent_and_start_again_in_the_folder(
    home: Path, stack_process: subprocess.Popen[bytes]
) -> None:
    wait_until("the stack is ready", lambda: running_stack(home))
    servers = [int(pid) for pid in Path(f"/proc/{stack_process.pid}/task/{stack_process.pid}/children").read_text().split()]
    assert len(servers) == 2
    stack_process.kill()
    stack_process.wait()
    assert running_stack(home) is None, "its state file exists, but its lock is released"
    with LocalStack(home):  # waits until the old servers have released their folders
        assert not any(map(is_alive, servers))


def test_a_server_started_outside_the_main_thread_is_refused(home: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    with ThreadPoolExecutor(1) as pool, pytest.raises(StackError, match="from the main thread"):
        pool.submit(LocalStack(home).start).result()
    assert running_stack(home) is None


def test_the_error_of_a_server_that_cannot_start_has_the_end_of_its_log(tmp_path: Path) -> None:
    data = tmp_path / "postgres" / "data"
    data.mkdir(mode=0o700, parents=True)
    (data / "PG_VERSION").write_text("7\n")
    with pytest.raises(StackError, match="could not access the server configuration file"):
        LocalStack(tmp_path).start()
    assert running_stack(tmp_path) is None
    assert is_unlocked(tmp_path / "kafka"), "the other server must have ended too"


def test_a_folder_that_cannot_be_used_is_named_with_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StackError, match=r"cannot use the folder .*file/home.*--home or TWIN_HOME"):
        LocalStack(tmp_path / "file" / "home").start()


def test_a_disk_without_room_is_refused_before_a_server_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: usage._replace(free=7 * 2**20))
    with pytest.raises(StackError, match=r"only 7 MB are free on the disk of .*, of 300 MB that are needed"):
        LocalStack(tmp_path).start()
    assert list(tmp_path.iterdir()) == []


def test_damaged_files_of_an_earlier_start_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "ports.json").write_text("")
    (tmp_path / "stack.json").write_text("{")
    lock = try_lock(tmp_path / "stack.lock")
    assert lock is not None
    assert running_stack(tmp_path) is None
    os.close(lock)
    assert choose_ports(tmp_path / "ports.json").keys() == {"kafka", "kafka_controller", "postgres"}


async def test_a_start_after_one_that_was_cut_off_and_lost_the_passwords_serves_again(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.stack.part.NOTICE_S", 0.0)
    with LocalStack(home) as stack:
        await in_database(stack.admin_dsn, "CREATE TABLE kept (number int)")
    for file in ("password", "logins.json"):
        (home / "postgres" / file).write_text("")
    for unfinished in (home / "postgres" / "data.new", home / "kafka" / "data.new"):
        unfinished.mkdir()
        (unfinished / "half").touch()
    notices: list[str] = []
    with LocalStack(home, notices.append) as stack:
        assert await in_database(stack.admin_dsn, "SELECT count(*) FROM kept") == 0
        assert await in_database(stack.postgres_dsn, "SELECT current_user") == "twinstream_write"
    assert any(notice.startswith("Kafka has been starting for 0 s: ") for notice in notices)


def test_a_server_that_is_not_ready_and_writes_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.stack.part.STALL_S", 1.0)
    silent = SilentServer(tmp_path, ())
    with pytest.raises(StackError, match=r"Silent is not ready and has written nothing to its log for 1 s"):
        silent.start()
    assert not silent.running


def test_a_server_that_writes_to_its_log_may_take_any_time_to_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.stack.part.STALL_S", 1.0)
    writer = SlowServer(tmp_path, ())
    writer.start()
    writer.kill()


class SilentServer(Part):
    """A server that never gets ready."""

    name = "Silent"
    stop_signal = signal.SIGTERM
    script = "import time; time.sleep(600)"

    def prepare(self) -> Steps:
        yield

    def command(self) -> list[str | Path]:
        return [sys.executable, "-c", self.script]

    def ready(self, log_start: int) -> bool:
        return "step 20\n" in self._log_since(log_start)


class SlowServer(SilentServer):
    """A server that is ready after twenty steps of a fifth of the longest silence."""

    name = "Slow"
    script = "import time\nfor n in range(1, 600):\n    print('step', n, flush=True)\n    time.sleep(0.2)"


@pytest.fixture
def copied_jars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = shutil.copytree(fetch_jars(), tmp_path / "cache" / "kafka-4.1.1")
    monkeypatch.setenv("TWIN_CACHE", str(tmp_path / "cache"))
    return copy


@pytest.mark.parametrize(("tamper", "message"), [
    (lambda jars: (jars / "kafka-clients-4.1.1.jar").open("ab").write(b"\0"), "different: kafka-clients-4.1.1.jar"),
    (lambda jars: (jars / "kafka-clients-4.1.1.jar").unlink(), "missing: kafka-clients-4.1.1.jar"),
    (lambda jars: (jars / "extra.jar").write_bytes(b""), "unknown: extra.jar"),
])  # fmt: skip
def test_no_server_starts_from_jars_that_are_not_the_pinned_ones(
    tamper: Callable[[Path], object], message: str, copied_jars: Path, tmp_path: Path
) -> None:
    verify_jars(copied_jars)
    tamper(copied_jars)
    with pytest.raises(StackError, match=message):
        LocalStack(tmp_path / "home").start()
    assert not (tmp_path / "home" / "kafka").exists()
    assert not (tmp_path / "home" / "postgres").exists()


def test_every_pinned_jar_has_a_complete_sha256() -> None:
    pinned = manifest()
    assert len(pinned) == 46
    assert all(len(digest) == 64 and int(digest, 16) for digest in pinned.values())


def test_where_the_kernel_cannot_tie_a_child_to_its_parent_the_tether_watches_it(tmp_path: Path) -> None:
    """The behaviour on macOS, with another value of sys.platform."""
    pid_file = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, "-c", TETHERS_A_CHILD, ON_ANOTHER_SYSTEM, TETHER, WRITES_ITS_PID, pid_file])
    wait_until("the child is running", lambda: pid_file.exists() and pid_file.read_text())
    child = int(pid_file.read_text())
    assert is_alive(child)
    parent.kill()
    parent.wait()
    wait_until("the child has ended", lambda: not is_alive(child))


def test_ctrl_c_in_the_terminal_stops_every_server_cleanly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deploy.stack", "--home", str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    assert any(line.startswith("running; press Ctrl-C") for line in lines)
    process.send_signal(signal.SIGINT)
    assert "stopped\n" in list(lines)
    assert process.wait() == 0
    assert "database system is shut down" in (tmp_path / "logs" / "postgres.log").read_text()
    for part in ("kafka", "postgres"):
        assert is_unlocked(tmp_path / part)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")
@pytest.mark.parametrize(("identity", "user"), [("namespace", 1000), ("nobody", 65534)])
def test_both_identities_of_root_can_read_a_closed_folder(identity: str, user: int, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "word").write_text("reached")
    program = "import os, pathlib, sys; print(os.geteuid(), pathlib.Path(sys.argv[1]).read_text())"
    tether = [sys.executable, "-I", "-S", str(TETHER), str(os.getpid()), "SIGKILL", identity]
    output = subprocess.run(
        [*tether, sys.executable, "-c", program, str(closed / "word")], capture_output=True, text=True, check=True
    ).stdout
    assert output == f"{user} reached\n"
