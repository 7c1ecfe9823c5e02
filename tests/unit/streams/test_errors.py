"""Errors described on one line."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from streams.errors import describe_error


class _Body(BaseModel):
    value: int


@pytest.mark.parametrize(("body", "shown"), [(b"not json", "not 'not json'"), (b"\xff", r"not '\xff'")])
def test_bytes_are_shown_as_text(body: bytes, shown: str):
    with pytest.raises(ValidationError) as error:
        _Body.model_validate_json(body)
    assert describe_error(error.value).endswith(shown)
