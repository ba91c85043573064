"""Mending a store from what is whole in it; only activations and tokens come from elsewhere.

Manifest, settings and commits say most things twice, so that any one of them can be written again
from the others. Every step is atomic and leaves what the next repair needs: one that was killed is
simply started again.
"""

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sae_dist.common.errors import UserError
from sae_dist.common.files import fsync_path, to_json, write_atomic
from sae_dist.store.arrays import TRAINABLE, array_specs, metadata
from sae_dist.store.eight_bits import site_reader
from sae_dist.store.fault import FaultError
from sae_dist.store.links import all_linked_folders
from sae_dist.store.rebatch import rebatch
from sae_dist.store.schema import (
    MANIFEST_FILE,
    SETTINGS_FILE,
    TOKENS_COMMIT,
    Manifest,
    Settings,
    ShardCommit,
    TokensCommit,
    commit_file,
    dump,
)
from sae_dist.store.seal import assemble
from sae_dist.store.shards import ShardReader
from sae_dist.store.survey import UNSEALED_FILE
from sae_dist.store.unit import commit_of, write_tokens
from sae_dist.store.verify import Audit

_LOST = {"tokens": "tokens", "activations": "activations", "scales": "activations"}  # by folder


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a repair has to do, by units.

    The tokens of `bad_tokens` are to be written again, the activations of `bad_units` to be
    harvested again; of `lost_commits` the files are whole. `is_complete`: the store was whole once
    and gets its seal back; `manifest` is that seal, if it is known.
    """

    root: Path
    settings: Settings
    tokens: TokensCommit
    manifest: Manifest | None
    bad_tokens: list[int]
    bad_units: list[int]
    lost_commits: list[int]
    is_complete: bool


def plan_repair(audit: Audit) -> Plan:
    """What the faults of an audit call for.

    Raises UserError when too much is lost to go by, and for a folder that is a link: what a repair
    writes would lead out of the store.
    """
    found = audit.survey
    for link in all_linked_folders(found.root):
        raise FaultError(link)
    if found.settings is None or found.tokens is None:
        raise UserError(
            f"found damaged {MANIFEST_FILE} and {SETTINGS_FILE} or {TOKENS_COMMIT} in {found.root};"
            f" expected the first or both others whole; restore one from a copy of the store"
        )
    bad: dict[str, set[int]] = {"tokens": set(), "activations": set()}
    for fault in audit.faults:
        parts = fault.path.relative_to(found.root).parts
        if parts[0] in _LOST and parts[-1].startswith("c."):
            bad[_LOST[parts[0]]].add(int(parts[-1].split(".")[1]))
    units = set(range(found.num_units))
    if not found.is_complete:  # other units have merely not been harvested yet
        units = {unit for unit in units if (found.root / commit_file(unit)).exists()}
    lost = units - set(found.commits) - bad["activations"]
    if found.manifest is None:  # nothing says what the files of these should be
        bad["activations"] |= lost
        lost = set()
    return Plan(
        root=found.root,
        settings=found.settings,
        tokens=found.tokens,
        manifest=found.manifest,
        bad_tokens=sorted(bad["tokens"]),
        bad_units=sorted(bad["activations"]),
        lost_commits=sorted(lost),
        is_complete=found.is_complete,
    )


def mend_records(plan: Plan) -> None:
    """Write settings, the tokens' commit and each array's metadata again where they differ."""
    layout = plan.settings.layout(plan.tokens.num_sequences)
    specs = array_specs(plan.settings.widths, layout.sequence_length, plan.settings.dtype).values()
    _restore(plan.root / SETTINGS_FILE, dump(plan.settings))
    _restore(plan.root / TOKENS_COMMIT, dump(plan.tokens))
    for spec in specs:
        _restore(plan.root / spec.metadata_file, to_json(metadata(spec, layout)))


def mend_tokens(plan: Plan, blocks: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
    """Write the bad token files again from `blocks`, as `StoreWriter.write_tokens` takes them.

    Raises UserError, and leaves the files alone, when they would come out differently.
    """
    missing = set(plan.bad_tokens)
    units = rebatch(blocks, plan.settings.shard_sequences, plan.tokens.num_sequences)
    for unit, (ids, trainable) in enumerate(units):
        if unit in missing:
            write_tokens(plan.root, plan.settings, unit, ids, trainable, plan.tokens.files)
            missing.remove(unit)
        if not missing:
            return
    raise UserError(
        f"found text that ends before unit {min(missing)} of {plan.root}; expected the text that "
        "was harvested; give it with text_path=…"
    )


def mend_commits(plan: Plan) -> None:
    """Write the commits again of units whose files are whole; their sums are taken from these."""
    for unit in plan.lost_commits:
        write_atomic(plan.root / commit_file(unit), dump(_commit(plan, unit)))


def set_aside(plan: Plan) -> None:
    """Break the seal and take the bad units' commits away, so that they count as not harvested."""
    aside = (plan.root / UNSEALED_FILE).parent
    aside.mkdir(exist_ok=True)
    fsync_path(plan.root)
    if plan.manifest is not None:
        write_atomic(plan.root / UNSEALED_FILE, dump(plan.manifest))
    for file in (MANIFEST_FILE, *(commit_file(unit) for unit in plan.bad_units)):
        if (plan.root / file).exists():
            os.replace(plan.root / file, aside / f"{Path(file).name}.broken")
            fsync_path((plan.root / file).parent)


def seal_again(plan: Plan) -> bool:
    """Write the manifest, every unit being committed; False if it is not the one of before."""
    manifest = assemble(plan.root, plan.settings)
    is_same = plan.manifest is None or manifest.shards == plan.manifest.shards
    sealed = plan.manifest if plan.manifest is not None and is_same else manifest
    _restore(plan.root / MANIFEST_FILE, dump(sealed))
    clear_aside(plan)
    return is_same


def clear_aside(plan: Plan) -> None:
    """Remove what `set_aside` kept."""
    shutil.rmtree((plan.root / UNSEALED_FILE).parent, ignore_errors=True)


def _restore(path: Path, data: bytes) -> None:
    if not path.is_file() or path.read_bytes() != data:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)


def _commit(plan: Plan, unit: int) -> ShardCommit:
    assert plan.manifest is not None
    files = plan.manifest.shards[unit].files
    layout = plan.manifest.layout
    specs = array_specs(plan.settings.widths, layout.sequence_length, plan.settings.dtype)
    readers = {path: ShardReader(plan.root, spec, layout, files) for path, spec in specs.items()}
    sequences = layout.sequences_of(unit)
    arrays = {
        site: site_reader(readers, site, plan.settings.dtype).read_sequences(sequences)
        for site in plan.settings.widths
    }
    trainable = readers[TRAINABLE].read_sequences(sequences)
    records = {path: record for path, record in files.items() if not path.startswith("tokens/")}
    return commit_of(plan.settings, unit, arrays, trainable, records)
