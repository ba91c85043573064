"""From settings and commits to the manifest."""

import hashlib
from functools import reduce
from operator import add
from pathlib import Path

from sae_dist.common.errors import UserError
from sae_dist.common.files import to_json
from sae_dist.store.arrays import INPUT_IDS, TRAINABLE, array_specs, metadata
from sae_dist.store.layout import held_out_units
from sae_dist.store.schema import (
    ASKED,
    TOKENS_COMMIT,
    Manifest,
    Settings,
    ShardCommit,
    ShardRecord,
    SiteRecord,
    Statistics,
    TokensCommit,
    commit_file,
    load,
)


def load_tokens(root: Path) -> TokensCommit:
    """The commit of the tokens. Raises UserError while there is none."""
    try:
        return load(root / TOKENS_COMMIT, TokensCommit)
    except FileNotFoundError as error:
        raise UserError(
            f"found no {TOKENS_COMMIT} in {root}; expected the tokens first; write them"
        ) from error


def metadata_digests(settings: Settings, num_sequences: int) -> dict[str, str]:
    """The sha256 of each array's zarr.json."""
    specs = array_specs(settings.widths, settings.sequence_length, settings.dtype)
    layout = settings.layout(num_sequences)
    return {
        spec.metadata_file: hashlib.sha256(to_json(metadata(spec, layout))).hexdigest()
        for spec in specs.values()
    }


def assemble(root: Path, settings: Settings) -> Manifest:
    """The manifest of all units committed so far; statistics are added in the order of units."""
    tokens = load_tokens(root)
    layout = settings.layout(tokens.num_sequences)
    specs = array_specs(settings.widths, settings.sequence_length, settings.dtype)
    held_out = held_out_units(layout.num_shards, settings.held_out)
    commits = {
        unit: load(root / commit_file(unit), ShardCommit)
        for unit in range(layout.num_shards)
        if (root / commit_file(unit)).exists()
    }
    training = [commit for unit, commit in commits.items() if unit not in held_out]
    sites = {
        site: SiteRecord(
            width=width,
            statistics=reduce(add, (c.statistics[site] for c in training), Statistics.zero(width)),
            dropped=sum(c.dropped.per_site.get(site, 0) for c in commits.values() if c.dropped),
        )
        for site, width in settings.widths.items()
    }
    token_specs = (specs[INPUT_IDS], specs[TRAINABLE])
    shards = [
        ShardRecord(
            unit=unit,
            files={
                **{spec.file(unit): tokens.files[spec.file(unit)] for spec in token_specs},
                **commit.files,
            },
            trainable_per_chunk=commit.trainable_per_chunk,
            dropped=commit.dropped,
        )
        for unit, commit in commits.items()
    ]
    return Manifest(
        layout=layout,
        dtype=settings.dtype,
        sites=sites,
        shards=shards,
        held_out=held_out,
        provenance={**settings.provenance, "tokens": tokens.fingerprint},
        metadata=metadata_digests(settings, tokens.num_sequences),
        asked={name: getattr(settings, name) for name in ASKED},
    )
