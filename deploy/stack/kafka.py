"""Apache Kafka as a server of the local stack: one node in KRaft mode."""

from __future__ import annotations

import base64
import re
import shutil
import signal
import uuid
from pathlib import Path

from deploy.stack.child import Steps
from deploy.stack.jars import java
from deploy.stack.part import HOST, Part

__all__ = ["Kafka"]

READY = b"Kafka Server started"
CHECKED = re.compile(r"\((\d+)/(\d+) completed in ")
JVM = (
    "-XX:TieredStopAtLevel=1",  # starts in half the time, at the price of throughput under steady load
    "-XX:+UseSerialGC",
    "-XX:-UsePerfData",
    "-Xms64m",
    "-Xmx384m",
    "-Djava.awt.headless=true",
)
LOGGING = (
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",  # writes the line that READY looks for
    "-Dorg.slf4j.simpleLogger.log.kafka.log.LogManager=info",  # counts the logs that are checked after a crash
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
)


class Kafka(Part):
    """Broker and controller in one process; ``ports`` are that of the clients and that of the controller."""

    name = "Kafka"
    stop_signal = signal.SIGTERM

    def __init__(self, home: Path, ports: tuple[int, int], jars: Path) -> None:
        super().__init__(home, ports)
        self.jars = jars

    @property
    def bootstrap(self) -> str:
        """Address for clients."""
        return f"{HOST}:{self.port}"

    def prepare(self) -> Steps:
        """Format the log folder once; an unfinished one is formatted again."""
        unfinished = self.folder / "data.new"
        if not self.data.exists():
            shutil.rmtree(unfinished, ignore_errors=True)
            settings = self._write_settings(unfinished)
            cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
            yield from self.run(self._java("kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "--config", settings))
            unfinished.rename(self.data)
        self._write_settings(self.data)

    def command(self) -> list[str | Path]:
        """Return the command line of the broker."""
        return self._java("kafka.Kafka", self.folder / "server.properties")

    def ready(self, log_start: int) -> bool:
        """Whether its log has the line that it writes after it has opened its listener."""
        with self.log.open("rb") as log:
            log.seek(log_start)
            return READY in log.read()

    def progress(self, log_start: int) -> str:
        """How many partitions are checked, where it has begun to check them."""
        counts = CHECKED.findall(self._log_since(log_start))
        return "{} of {} partitions are checked".format(*counts[-1]) if counts else super().progress(log_start)

    def _java(self, main: str, *arguments: str | Path) -> list[str | Path]:
        return [java(), *JVM, *LOGGING, "-cp", f"{self.jars}/*", main, *arguments]

    def _write_settings(self, data: Path) -> Path:
        path = self.folder / "server.properties"
        path.write_text("".join(f"{key}={value}\n" for key, value in self._settings(data).items()), encoding="utf-8")
        return path

    def _settings(self, data: Path) -> dict[str, str | int]:
        broker, controller = (f"{HOST}:{port}" for port in self.ports)
        return {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@{controller}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://{broker},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{broker}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(data),
            "auto.create.topics.enable": "false",
            "group.initial.rebalance.delay.ms": 0,
            "default.replication.factor": 1,
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 1,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "broker.heartbeat.interval.ms": 1000,
            "broker.session.timeout.ms": 5000,  # after a crash the controller waits this long for the earlier broker
            "num.network.threads": 2,
            "num.io.threads": 2,
            "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,
        }
