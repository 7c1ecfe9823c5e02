"""Stores a trained model as files without executable content.

A folder has ``manifest.json``, ``meta.json``, ``arrays.npz`` and one skops file per estimator. One SHA-256 covers all files; it is
stored with the model and checked before anything is parsed. Pickle is not used: arrays of objects, other files, types outside of
``TRUSTED_TYPES`` and models of another scikit-learn release are refused.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import skops.io
from sklearn.base import BaseEstimator
from skops.io.exceptions import UntrustedTypesFoundException

from engine.twins import ModelParts

__all__ = ["UntrustedModel", "digest_of", "read_parts", "write_parts"]

TRUSTED_TYPES = [
    "functools.partial",  # a function inside of it must be trusted itself
    "numpy.dtype",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
    "sklearn.utils.validation.check_array",
]
"""Types of encoders, forests and boosted trees that skops does not trust by default."""

FORMAT = 1
_MANIFEST, _META, _ARRAYS = "manifest.json", "meta.json", "arrays.npz"


class UntrustedModel(ValueError):
    """The stored model files do not have the stored digest, or must not be read by this process."""


def write_parts(parts: ModelParts, folder: Path) -> str:
    """Write a model's parts into a new folder and return their digest.

    Raises:
        ValueError: for an array of objects, or an estimator with types that are not trusted.
    """
    folder.mkdir(parents=True)
    for name, estimator in parts.estimators.items():
        _write_estimator(name, estimator, folder)
    for name, array in parts.arrays.items():
        if array.dtype.hasobject:
            raise ValueError(f"array {name!r} holds objects of Python: give it a plain dtype, not {array.dtype}")
    arrays: dict[str, Any] = parts.arrays
    np.savez_compressed(folder / _ARRAYS, **arrays)
    _write_json(folder / _META, parts.meta)
    _write_json(folder / _MANIFEST, {"format": FORMAT, "scikit_learn": sklearn.__version__, "estimators": list(parts.estimators)})
    return digest_of(folder)


def read_parts(folder: Path, sha256: str) -> ModelParts:
    """Read the parts that ``write_parts`` has written.

    Raises:
        UntrustedModel: when the files do not have the digest ``sha256``, or must not be read here.
    """
    if (digest := digest_of(folder)) != sha256:
        raise UntrustedModel(f"the model's files have the digest {digest}, stored is {sha256}")
    manifest = _read_json(folder / _MANIFEST)
    _check(manifest, folder)
    estimators = {name: _read_estimator(_estimator_file(folder, name)) for name in manifest["estimators"]}
    return ModelParts(estimators=estimators, arrays=_read_arrays(folder / _ARRAYS), meta=_read_json(folder / _META))


def digest_of(folder: Path) -> str:
    """SHA-256 over names, lengths and contents of all files of a folder, as hexadecimal digits."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            digest.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()


def _check(manifest: dict[str, Any], folder: Path) -> None:
    if manifest["format"] != FORMAT:
        raise UntrustedModel(f"the model is stored in format {manifest['format']}, this release reads format {FORMAT}")
    if _release(manifest["scikit_learn"]) != _release(sklearn.__version__):
        raise UntrustedModel(
            f"the model was trained with scikit-learn {manifest['scikit_learn']}, not {sklearn.__version__}: train it again"
        )
    expected = {_MANIFEST, _META, _ARRAYS, *(_estimator_file(folder, name).name for name in manifest["estimators"])}
    if unknown := sorted({str(path.relative_to(folder)) for path in folder.rglob("*")} - expected):
        raise UntrustedModel(f"the model's folder has unknown files: {', '.join(unknown)}")


def _release(version: str) -> list[str]:
    return version.split(".")[:2]


def _estimator_file(folder: Path, name: str) -> Path:
    if not name.isidentifier():
        raise UntrustedModel(f"estimator {name!r} has a name that is no identifier")
    return folder / f"{name}.skops"


def _write_estimator(name: str, estimator: BaseEstimator, folder: Path) -> None:
    path = _estimator_file(folder, name)
    skops.io.dump(estimator, path, compression=zipfile.ZIP_DEFLATED, compresslevel=1)
    if refused := sorted(set(skops.io.get_untrusted_types(file=path)) - set(TRUSTED_TYPES)):
        raise ValueError(f"estimator {name!r} could not be read again: its types {', '.join(refused)} are not trusted")


def _read_estimator(path: Path) -> BaseEstimator:
    try:
        return skops.io.load(path, trusted=TRUSTED_TYPES)
    except UntrustedTypesFoundException as error:
        raise UntrustedModel(f"{path.name} holds types that are not trusted: {error}") from error
    except (zipfile.BadZipFile, KeyError) as error:
        raise UntrustedModel(f"{path.name} is no skops file: {error}") from error


def _read_arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (ValueError, zipfile.BadZipFile) as error:
        raise UntrustedModel(f"{path.name} is no file of plain arrays: {error}") from error


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, allow_nan=False, indent=1, sort_keys=True), encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return fields
