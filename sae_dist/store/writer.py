"""Writing a store: tokens first, then shard by shard in any order by any process, then the seal.

Every step ends in one atomic commit, so a killed writer leaves a store that can be gone on with.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

import numpy as np

from sae_dist.common.disk import tell_unwritten
from sae_dist.common.dtypes import FloatDtype
from sae_dist.common.errors import UserError
from sae_dist.common.files import claim, fsync_path, to_json, write_atomic
from sae_dist.common.log import warn
from sae_dist.store.arrays import (
    INPUT_IDS,
    TRAINABLE,
    array_specs,
    bytes_on_disk,
    metadata,
    site_specs,
)
from sae_dist.store.config import StoreConfig
from sae_dist.store.fault import FaultError
from sae_dist.store.layout import Layout, held_out_units
from sae_dist.store.links import linked_folders
from sae_dist.store.rebatch import rebatch
from sae_dist.store.schema import (
    MANIFEST_FILE,
    SETTINGS_FILE,
    TOKENS_COMMIT,
    FileRecord,
    Manifest,
    Settings,
    ShardCommit,
    TokensCommit,
    commit_file,
    dump,
    load,
)
from sae_dist.store.seal import assemble, load_tokens
from sae_dist.store.settings import choose_settings, require_same
from sae_dist.store.shards import ShardReader
from sae_dist.store.unit import write_activations, write_tokens


class StoreWriter:
    """Writes one store; any number of processes may hold one each, for different units.

    Attributes: `path`, the store's folder, and `settings`, what it was started with.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path = path
        self.settings = settings
        self._tokens_commit: TokensCommit | None = None
        self._specs = array_specs(settings.widths, settings.sequence_length, settings.dtype)
        for fault in linked_folders(path, ("commits", *self._specs)):
            raise FaultError(fault)
        for folder in ("commits", *self._specs):
            (path / folder).mkdir(parents=True, exist_ok=True)
        for folder in {".", *(str(Path(spec).parent) for spec in self._specs)}:
            fsync_path(path / folder)

    @classmethod
    def create(
        cls,
        path: str | Path,
        widths: dict[str, int],
        sequence_length: int,
        config: StoreConfig,
        provenance: dict[str, Any],
        num_sequences: int | None,
    ) -> Self:
        """Start a store at `path`, or go on with one that was started with the same settings.

        `num_sequences` is the most that will be written; None takes as many as come. Raises
        UserError for a folder that holds something else or a store with other settings.
        """
        root = Path(path)
        settings = choose_settings(widths, sequence_length, config, provenance, num_sequences)
        root.mkdir(parents=True, exist_ok=True)
        others = {entry.name for entry in root.iterdir() if not entry.name.startswith(".")}
        if others and not (root / SETTINGS_FILE).exists():  # asked last: others begin with it
            raise UserError(
                f"found {sorted(others)[0]!r} in {root}; expected an empty folder or a store; "
                "choose another path"
            )
        data = dump(settings)
        with tell_unwritten(root, lambda: len(data)):
            if (root / SETTINGS_FILE).exists() or not claim(root / SETTINGS_FILE, data):
                started = load(root / SETTINGS_FILE, Settings)
                require_same(root / SETTINGS_FILE, started.to_json(), settings.to_json())
            return cls(root, settings)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Go on with a started store. Raises UserError when there is none."""
        root = Path(path)
        try:
            return cls(root, load(root / SETTINGS_FILE, Settings))
        except FileNotFoundError as error:
            raise UserError(
                f"found no {SETTINGS_FILE} in {root}; expected a started store; create it first"
            ) from error

    @property
    def sealed(self) -> bool:
        """Whether the manifest is there: nothing more will be written."""
        return (self.path / MANIFEST_FILE).exists()

    @property
    def dtype(self) -> FloatDtype:
        """The format in which activations are stored."""
        return self.settings.dtype

    @property
    def layout(self) -> Layout:
        """The grid, with its final length. Raises UserError before there are tokens."""
        return self.settings.layout(self._tokens().num_sequences)

    def tokens_ready(self) -> bool:
        """Whether the tokens are committed."""
        return (self.path / TOKENS_COMMIT).exists()

    def write_tokens(
        self,
        blocks: Iterable[tuple[np.ndarray, np.ndarray]],
        fingerprint: Callable[[], dict[str, Any]],
    ) -> None:
        """Write all tokens from `blocks` of (ids_NS int32, trainable_NS bool) and commit them.

        Blocks may have any length; rows beyond the store's num_sequences are not taken, and
        num_sequences shrinks when the blocks end early. `fingerprint` is asked after the last
        block for what the blocks were (JSON). Tokens already committed are kept.
        """
        if self.tokens_ready():
            return
        files: dict[str, FileRecord] = {}
        num_sequences = 0
        limit = self.settings.num_sequences
        units = rebatch(blocks, self.settings.shard_sequences, limit)
        for unit, (ids, trainable) in enumerate(units):
            files |= write_tokens(self.path, self.settings, unit, ids, trainable)
            num_sequences += len(ids)
        self._commit_tokens(num_sequences, fingerprint(), files)

    def read_tokens(self, unit: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids int32 [n, S], trainable bool [n, S]) of one unit."""
        tokens, layout = self._tokens(), self.layout
        sequences = layout.sequences_of(unit)
        ids, trainable = (
            ShardReader(self.path, self._specs[name], layout, tokens.files).read_sequences(
                sequences
            )
            for name in (INPUT_IDS, TRAINABLE)
        )
        return ids, trainable

    def missing(self) -> list[int]:
        """Units without a commit, in order."""
        commits = set(os.listdir(self.path / "commits"))  # one request, however many units
        units = range(self.layout.num_shards)
        return [unit for unit in units if Path(commit_file(unit)).name not in commits]

    def committed(self, unit: int) -> bool:
        """Whether a unit is written, by whomever."""
        return (self.path / commit_file(unit)).exists()

    def bytes_needed(self) -> int:
        """Bytes on disk that the missing units will take, checksums and indices included.

        Before there are tokens, what they and all units will take at most.
        """
        if not self.tokens_ready():
            layout = self.settings.layout(self.settings.num_sequences or 0)
            return bytes_on_disk(self._specs.values(), layout, range(layout.num_shards))
        settings = self.settings
        specs = site_specs(settings.widths, settings.sequence_length, settings.dtype).values()
        return bytes_on_disk(specs, self.layout, self.missing())

    def write_shard(self, unit: int, arrays: dict[str, np.ndarray]) -> bool:
        """Write one unit of every site and commit it; False if another writer committed it first.

        `arrays` holds, for each site, [n, S, d] in the storage dtype, where n is the unit's number
        of sequences. Raises UserError, before anything is written, for other shapes or dtypes,
        for NaN or infinity at a trainable token (naming unit, site and sequence) unless such tokens
        are dropped, and for too many dropped ones.
        """
        return self._write_shard(unit, arrays, self.read_tokens(unit)[1])

    def write_in_order(
        self, units: Iterable[tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]]
    ) -> None:
        """Write units (ids, trainable, arrays by site) from 0 on, when their number is not known.

        All but the last hold shard_sequences sequences. The tokens are committed at the end, so
        this cannot be gone on with: it is for stores that one process writes in one go.
        """
        files: dict[str, FileRecord] = {}
        num_sequences = 0
        for unit, (ids, trainable, arrays) in enumerate(units):
            files |= write_tokens(self.path, self.settings, unit, ids, trainable)
            self._write_shard(unit, arrays, trainable)
            num_sequences += len(ids)
        self._commit_tokens(num_sequences, {}, files)

    def seal(self) -> Manifest:
        """Write the manifest once every unit is committed; a second call changes nothing.

        Raises UserError when units are missing.
        """
        if self.sealed:
            return load(self.path / MANIFEST_FILE, Manifest)
        if missing := self.missing():
            raise UserError(
                f"found {len(missing)} of {self.layout.num_shards} shards missing in {self.path} "
                f"(first: {missing[0]}); expected all; write them before sealing"
            )
        self._sweep_all()
        manifest = assemble(self.path, self.settings)
        write_atomic(self.path / MANIFEST_FILE, dump(manifest))
        return manifest

    def _tokens(self) -> TokensCommit:
        """The commit of the tokens, read once: it never changes."""
        if self._tokens_commit is None:
            self._tokens_commit = load_tokens(self.path)
        return self._tokens_commit

    def _commit_tokens(
        self, num_sequences: int, fingerprint: dict[str, Any], files: dict[str, FileRecord]
    ) -> None:
        """Write every array's metadata, which needs the final length, then the commit."""
        if num_sequences == 0:
            raise UserError("found no sequence; expected at least one; check the input")
        layout = self.settings.layout(num_sequences)
        held_out_units(layout.num_shards, self.settings.held_out)
        for spec in self._specs.values():
            write_atomic(self.path / spec.metadata_file, to_json(metadata(spec, layout)))
        commit = TokensCommit(num_sequences=num_sequences, fingerprint=fingerprint, files=files)
        write_atomic(self.path / TOKENS_COMMIT, dump(commit))

    def _write_shard(self, unit: int, arrays: dict[str, np.ndarray], trainable: np.ndarray) -> bool:
        if self.committed(unit):
            return False
        try:
            commit = write_activations(self.path, self.settings, unit, arrays, trainable)
            is_ours = claim(self.path / commit_file(unit), dump(commit))
        except FileNotFoundError:
            if self.committed(unit):  # another writer won, and swept up our temporary file
                return False
            raise
        if not is_ours:
            return self._lost(unit, commit)
        self._sweep(unit)
        return True

    def _lost(self, unit: int, commit: ShardCommit) -> bool:
        """Another writer claimed the unit: fine if its bytes are ours, which may lie there."""
        theirs = load(self.path / commit_file(unit), ShardCommit)
        if theirs.files != commit.files:
            raise UserError(
                f"found unit {unit} of {self.path} written twice with different bytes; expected a "
                f"deterministic harvest; delete {commit_file(unit)} and write the unit again"
            )
        return False

    def _sweep(self, unit: int) -> None:
        """Remove temporary files that killed writers of this unit left."""
        for spec in self._specs.values():
            for leftover in (self.path / spec.path).glob(f".{spec.file_name(unit)}.*.tmp"):
                leftover.unlink(missing_ok=True)

    def _sweep_all(self) -> None:
        """Remove what killed writers left anywhere, and tell."""
        folders = [self.path, self.path / "commits", *(self.path / path for path in self._specs)]
        found = [f for folder in folders for p in (".*.tmp", "*.partial") for f in folder.glob(p)]
        for leftover in found:
            leftover.unlink(missing_ok=True)
        if found:
            warn(f"{len(found)} leftover files of killed writers removed (first: {found[0]})")
