"""What a store is asked to be, and what that comes to."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec

from sae_dist.common.errors import UserError
from sae_dist.common.settings import validate
from sae_dist.store.config import StoreConfig
from sae_dist.store.layout import check_held_out, choose_layout
from sae_dist.store.records import SITE_PATTERN, Settings

_SHARDS = 4096  # of a large store
_LEAST_MIB, _MOST_MIB, _MOST_MIB_A_SITE = 256, 12 * 1024, 1024


def choose_settings(
    widths: dict[str, int],
    sequence_length: int,
    config: StoreConfig,
    provenance: dict[str, Any],
    num_sequences: int | None,
) -> Settings:
    """Check what the user asks for, and choose the grid. Raises UserError."""
    validate(config, "writer.")
    _check_sites(widths)
    check_held_out(config.held_out)
    if sequence_length < 1 or (num_sequences is not None and num_sequences < 1):
        raise UserError(
            f"found {num_sequences} sequences of {sequence_length} positions; expected at least "
            "one of each; change them"
        )
    bytes_per_position = sum(widths.values()) * config.dtype.disk.itemsize
    total_mib = (num_sequences or 0) * sequence_length * bytes_per_position / 2**20
    most_mib = min(_MOST_MIB, _MOST_MIB_A_SITE * sum(widths.values()) / max(widths.values()))
    layout = choose_layout(
        num_sequences=num_sequences,
        sequence_length=sequence_length,
        bytes_per_position=bytes_per_position,
        chunk_mib=config.chunk_mib,
        shard_mib=config.shard_mib or max(_LEAST_MIB, min(total_mib / _SHARDS, most_mib)),
        held_out=config.held_out,
    )
    return Settings(
        num_sequences=num_sequences,
        sequence_length=sequence_length,
        shard_sequences=layout.shard_sequences,
        chunk_sequences=layout.chunk_sequences,
        chunk_rows=layout.chunk_rows,
        dtype=config.dtype,
        held_out=config.held_out,
        widths=dict(sorted(widths.items())),
        provenance=provenance,
        non_finite=config.non_finite,
        max_norm=config.max_norm,
    )


def _check_sites(widths: dict[str, int]) -> None:
    """Raise UserError for a site whose name cannot be a folder's, or whose width is none."""
    if not widths:
        raise UserError("found no site; expected at least one; name one")
    for site, width in widths.items():
        if not re.fullmatch(SITE_PATTERN, site):
            raise UserError(
                f"found site {site[:130]!r}; expected letters, digits, '_', '-' and inner dots, at "
                "most 128 of them; rename it"
            )
        if type(width) is not int or width < 1:
            raise UserError(
                f"found width {width!r} at site {site!r}; expected a positive number; mend it"
            )


def require_same(path: Path | str, found: Settings, wanted: Settings) -> None:
    """Raise UserError with the entries of a store's settings that are not the wanted ones."""
    there, asked = (msgspec.to_builtins(settings) for settings in (found, wanted))
    keys = sorted(key for key in there if there[key] != asked[key])
    if keys:
        differences = ", ".join(f"{key}={_json(there[key])}" for key in keys)
        expected = ", ".join(f"{key}={_json(asked[key])}" for key in keys)
        raise UserError(
            f"found {path} started with {differences}; expected {expected}; use the same settings "
            "or another path"
        )


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
