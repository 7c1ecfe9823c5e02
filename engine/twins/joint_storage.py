"""Columns and the decoder of a joint distribution as plain arrays and JSON types, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.twins.decoding import Decoder
from engine.twins.marginal import Marginal
from engine.twins.relations import TableRelations
from engine.twins.shares import Share
from schemas.relations import Relation

__all__ = ["decoder_arrays", "decoder_meta", "load_decoder", "load_marginal", "marginal_arrays", "marginal_meta"]

Arrays = Mapping[str, npt.NDArray[Any]]


def marginal_arrays(column: Marginal) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a column."""
    codes = column.codes.astype(np.int32)
    return {"support": column.support, "codes": codes, "scores": column.scores, "atoms": column.atoms}


def marginal_meta(column: Marginal) -> dict[str, Any]:
    """The rest of a column."""
    return {"name": column.name, "dtype": column.dtype, "levels": list(column.levels), "decimals": column.decimals}


def load_marginal(meta: Mapping[str, Any], arrays: Arrays) -> Marginal:
    """The column that these were taken from."""
    return Marginal(
        name=meta["name"],
        dtype=meta["dtype"],
        levels=tuple(meta["levels"]),
        support=arrays["support"],
        codes=arrays["codes"].astype(np.int64),
        scores=arrays["scores"],
        atoms=arrays["atoms"],
        decimals=meta["decimals"],
    )


def decoder_arrays(decoder: Decoder) -> dict[str, npt.NDArray[Any]]:
    """The arrays of the columns that are drawn as shares; the others are stored as they are drawn."""
    return {
        f"share{k}.{name}": array
        for k, share in enumerate(decoder.shares)
        for name, array in marginal_arrays(decoder.columns[share.column]).items()
    }


def decoder_meta(decoder: Decoder) -> dict[str, Any]:
    """The rest of a decoder."""
    return {
        "shares": [asdict(share) for share in decoder.shares],
        "originals": [marginal_meta(decoder.columns[share.column]) for share in decoder.shares],
        "plain": [name for name in decoder.columns if name not in decoder.share_of],
        "relations": [relation.model_dump(mode="json") for relation in decoder.relations.listed],
        "bounds": [list(pair) for pair in decoder.relations.bounds],
    }


def load_decoder(meta: Mapping[str, Any] | None, arrays: Arrays, columns: Sequence[Marginal]) -> Decoder:
    """The decoder that these were taken from; one that decodes nothing without ``meta``."""
    if meta is None:
        return Decoder()
    shares = tuple(Share(**{**stored, "others": tuple(stored["others"])}) for stored in meta["shares"])
    originals = {
        share.column: load_marginal(
            stored, {key.partition(".")[2]: array for key, array in arrays.items() if key.startswith(f"share{k}.")}
        )
        for k, (share, stored) in enumerate(zip(shares, meta["originals"], strict=True))
    }
    plain = {column.name: column for column in columns if column.name in meta["plain"]}
    relations = tuple(Relation(**stored) for stored in meta["relations"])
    return Decoder(shares, originals | plain, TableRelations(relations, tuple((a, b) for a, b in meta["bounds"])))
