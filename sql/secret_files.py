"""Reads secret settings from files, as containers mount them: ``TWIN_NAME_FILE`` names the file with the value of ``TWIN_NAME``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource

__all__ = ["InFile", "SecretFileError", "SecretFiles"]

_MAX_BYTES = 64 * 1024


class InFile:
    """Marks a setting that may have a password in it, such as an address, and can be in a file as secrets can."""


class SecretFileError(ValueError):
    """The file of a secret setting cannot be used; the message has its path and never its content."""


class SecretFiles(PydanticBaseSettingsSource):
    """The values of all secret settings whose variable with the suffix ``_FILE`` names a file."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return the secret of a field, None where no file is named."""
        setting = f"{self.config.get('env_prefix', '')}{field_name}".upper()
        is_secret = field.annotation is SecretStr or any(isinstance(mark, InFile) for mark in field.metadata)
        path = _variable(f"{setting}_FILE") if is_secret else ""
        if path and _variable(setting):
            raise SecretFileError(f"{setting} and {setting}_FILE={path} are both set: remove one of them")
        return (_read_secret(f"{setting}_FILE", Path(path)) if path else None), field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return the secrets that are in files, by field.

        Raises:
            SecretFileError: for a file that cannot be read or has no secret, and for a secret that is given twice.
        """
        values = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in values.items() if value is not None}


def _variable(name: str) -> str:
    """The value of an environment variable, whatever the case of its name; empty where it is not set."""
    return next((value for key, value in os.environ.items() if key.upper() == name), "")


def _read_secret(setting: str, path: Path) -> str:
    """Return the content of a file without the newline at its end."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise SecretFileError(f"{setting}={path} cannot be read: {error.strerror or type(error).__name__}") from None
    if len(content) > _MAX_BYTES:
        raise SecretFileError(f"{setting}={path} is larger than {_MAX_BYTES:,} bytes: it must have nothing but the secret")
    try:
        secret = content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise SecretFileError(f"{setting}={path} is no UTF-8 text") from None  # the cause has a part of the content
    if not secret.strip():
        raise SecretFileError(f"{setting}={path} is empty")
    if not secret.isprintable():
        raise SecretFileError(f"{setting}={path} has several lines or a control character: it must have nothing but the secret")
    return secret
