"""What a store is asked to be, and what that comes to."""

import json
from pathlib import Path
from typing import Any

from sae_dist.common.errors import UserError
from sae_dist.common.settings import validate
from sae_dist.store.allowed import site_problems
from sae_dist.store.config import StoreConfig
from sae_dist.store.layout import choose_layout
from sae_dist.store.schema import Settings


def choose_settings(
    widths: dict[str, int],
    sequence_length: int,
    config: StoreConfig,
    provenance: dict[str, Any],
    num_sequences: int | None,
) -> Settings:
    """Check what the user asks for, and choose the grid. Raises UserError."""
    validate(config, "writer.")
    for problem in site_problems(widths):
        raise UserError(f"found {problem}; rename the site or mend its width")
    if sequence_length < 1 or (num_sequences is not None and num_sequences < 1):
        raise UserError(
            f"found {num_sequences} sequences of {sequence_length} positions; expected at least "
            "one of each; change them"
        )
    layout = choose_layout(
        num_sequences=num_sequences,
        sequence_length=sequence_length,
        bytes_per_position=sum(widths.values()) * config.dtype.disk.itemsize,
        chunk_mib=config.chunk_mib,
        shard_mib=config.shard_mib,
        held_out=config.held_out,
    )
    return Settings(
        num_sequences=num_sequences,
        sequence_length=sequence_length,
        shard_sequences=layout.shard_sequences,
        chunk_sequences=layout.chunk_sequences,
        chunk_positions=layout.chunk_positions,
        dtype=config.dtype,
        held_out=config.held_out,
        widths=widths,
        provenance=provenance,
        non_finite=config.non_finite,
        max_norm=config.max_norm,
    )


def require_same(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise UserError with the entries that differ."""
    keys = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
    if keys:
        differences = ", ".join(f"{key}={json.dumps(found.get(key))}" for key in keys)
        expected = ", ".join(f"{key}={json.dumps(wanted.get(key))}" for key in keys)
        raise UserError(
            f"found {path} started with {differences}; expected {expected}; use the same settings "
            "or another path"
        )
