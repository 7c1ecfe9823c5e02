"""What tests of child processes need: a model, and a folder for their files."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from engine.twins import TwinModel
from tests.models import hcp_model


@pytest.fixture(scope="module")
def model() -> TwinModel:
    """A model of prescribers."""
    return hcp_model()


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own for the files of this test's processes, which their command lines name."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path
