"""Writing a store: tokens unit by unit, activations in any order by any process, then the seal.

Every step ends in one atomic commit, so a killed writer leaves a store that can be continued.
"""

import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np

from sae_dist.common.disk import explain_disk_errors
from sae_dist.common.dtypes import FloatDtype
from sae_dist.common.errors import UserError
from sae_dist.store.arrays import array_specs, bytes_on_disk, of_unit
from sae_dist.store.config import StoreConfig
from sae_dist.store.files import Files, files_at
from sae_dist.store.layout import Layout, is_held_out
from sae_dist.store.records import (
    MANIFEST_FILE,
    SETTINGS_FILE,
    TOKENS,
    UNIT_COMMITS,
    Manifest,
    Settings,
    UnitCommit,
    commit_file,
    dump,
    load,
    tokens_file,
)
from sae_dist.store.seal import clear_commits, load_commit, load_settings, seal
from sae_dist.store.settings import choose_settings, require_same
from sae_dist.store.tokens import Tokens, TokensWritten
from sae_dist.store.unit import discard, publish, write_unit


class StoreWriter:
    """Writes one store; any number of processes may hold one each, for different units.

    Attributes: `path`, the store's folder; `files`, what reaches it; and `settings`, what it was
    started with.
    """

    def __init__(self, files: Files, settings: Settings) -> None:
        self.path = files.path()
        self.files = files
        self.settings = settings
        self._tokens = Tokens(files, settings)
        self._specs = array_specs(settings.widths, settings.layout(0), settings.dtype)
        files.make_folders([*self._specs, *(() if self.sealed else (UNIT_COMMITS, TOKENS))])

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
        files = files_at(path)
        settings = choose_settings(widths, sequence_length, config, provenance, num_sequences)
        data = dump(settings)
        with explain_disk_errors(files.path(), lambda: len(data)):
            files.make_folders([""])
            names = [name for name in files.list("") if not name.startswith(".")]
            if names and not {SETTINGS_FILE, MANIFEST_FILE} & {*files.list("")}:
                raise UserError(
                    f"found {names[0]!r} in {files.path()}; expected an empty folder or a store; "
                    "choose another path"
                )
            if not files.exists(MANIFEST_FILE):
                files.create(SETTINGS_FILE, data)
            name, started = load_settings(files)
            require_same(files.path(name), started, settings)
            return cls(files, settings)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Go on with a started store. Raises UserError when there is none."""
        files = files_at(path)
        try:
            return cls(files, load_settings(files)[1])
        except FileNotFoundError as error:
            raise UserError(
                f"found no {SETTINGS_FILE} in {files.path()}; expected a started store; create it "
                "first"
            ) from error

    @property
    def sealed(self) -> bool:
        """Whether the manifest is there: nothing more will be written."""
        return self.files.exists(MANIFEST_FILE)

    @property
    def dtype(self) -> FloatDtype:
        """The format in which activations are stored."""
        return self.settings.dtype

    @property
    def num_units(self) -> int | None:
        """How many there are in all; None while the end of the tokens is not known."""
        end = self._tokens.load_end()
        return None if end is None else self.settings.layout(end.num_sequences).num_units

    @property
    def layout(self) -> Layout:
        """The grid, with its final length. Raises UserError before that is known."""
        if (end := self._tokens.load_end()) is None:
            raise UserError(
                f"found no end of the tokens of {self.path}; expected them first; write them"
            )
        return self.settings.layout(end.num_sequences)

    def put_tokens(self, unit: int, ids: np.ndarray, trainable: np.ndarray, cursor: Any) -> None:
        """Write a unit's tokens ahead of its activations; those that are there are kept.

        Args:
            unit: all before it have theirs.
            ids, trainable: int32 and bool [n, S]; n is shard_sequences but for the last unit.
            cursor: where the text stands after them (JSON), for whoever goes on.
        """
        self._tokens.put(unit, ids, trainable, cursor)

    def end_tokens(self, num_sequences: int, fingerprint: dict[str, Any]) -> None:
        """Say that all tokens are written, and what they are of (JSON)."""
        self._tokens.end(num_sequences, fingerprint)

    def has_tokens(self, unit: int) -> bool:
        """Whether a unit's tokens are there, by one request."""
        return self.files.exists(tokens_file(unit))

    def tokens_written(self) -> TokensWritten:
        """How far the tokens are."""
        return self._tokens.written()

    def read_tokens(self, unit: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids int32 [n, S], trainable bool [n, S]) of one unit. Raises UserError before that."""
        return self._tokens.get(unit)

    def committed(self) -> set[int]:
        """Units that are written, by one listing."""
        return {int(name[:-5]) for name in self.files.list(UNIT_COMMITS) if name[:-5].isdigit()}

    def is_committed(self, unit: int) -> bool:
        """Whether a unit is written, by any process."""
        return self.files.exists(commit_file(unit)) or self.sealed

    def missing(self) -> list[int]:
        """Units with tokens and no commit, in order: of a sealed store none."""
        if self.sealed:
            return []
        num_units = self.num_units
        units = self._tokens.units() if num_units is None else set(range(num_units))
        return sorted(units - self.committed())

    def bytes_needed(self) -> int:
        """Bytes on disk that what is missing will take at most, checksums and indices included."""
        if self.sealed:
            return 0
        settings, num_sequences = self.settings, self.settings.num_sequences
        if (end := self._tokens.load_end()) is not None:
            num_sequences = end.num_sequences
        layout = settings.layout(num_sequences or 0)
        missing = set(range(layout.num_units)) - self.committed()
        return sum(
            bytes_on_disk(
                self._of_unit(unit),
                len(layout.sequences_of(unit)) * layout.sequence_length,
                len(layout.sequences_of(unit)),
            )
            for unit in missing
        )

    def write_unit(self, unit: int, arrays: dict[str, np.ndarray]) -> bool:
        """Write one unit of every site and commit it; False if another writer committed it first.

        `arrays` holds, for each site, [n, S, d] in the storage dtype, where n is the unit's number
        of sequences. Raises UserError, before anything is committed, for other shapes or dtypes,
        for NaN or infinity at a trainable token (naming unit, site and sequence) unless such tokens
        are dropped, and for too many dropped ones.
        """
        if self.is_committed(unit):
            return False
        try:
            ids, trainable = self.read_tokens(unit)
            return self._write_unit(unit, arrays, ids, trainable)
        except (FileNotFoundError, UserError):
            if self.sealed:  # by another job meanwhile: what this one needs has gone
                return False
            raise

    def write_in_order(
        self, units: Iterable[tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]]
    ) -> None:
        """Write units (ids, trainable, arrays by site) from 0 on, when their number is not known.

        All but the last hold shard_sequences sequences. This cannot be continued: it is for stores
        that one process writes in one go.
        """
        num_sequences = 0
        for unit, (ids, trainable, arrays) in enumerate(units):
            self._write_unit(unit, arrays, ids, trainable)
            num_sequences += len(ids)
        self.end_tokens(num_sequences, {})

    def seal(self) -> Manifest:
        """Write the manifest once every unit is committed; a second call changes nothing.

        Several may do so at once, as all write the same. Settings and commits go: they are in the
        manifest. Raises UserError when units are missing.
        """
        if not self.sealed:
            try:
                return self._seal()
            except (FileNotFoundError, UserError):
                if not self.sealed:  # by another meanwhile, which removed the commits
                    raise
        manifest = load(self.files, MANIFEST_FILE, Manifest)
        clear_commits(self.files)  # of a process that was killed at it
        return manifest

    def abandon(self) -> None:
        """Remove a store that holds no tokens yet; its folder, too, if nothing else is in it."""
        self.files.remove(SETTINGS_FILE)
        folders = {parent for name in (*self._specs, UNIT_COMMITS, TOKENS) for parent in _up(name)}
        for folder in sorted(folders, key=len, reverse=True):
            with suppress(OSError):  # not empty: what is in it is not of this store
                self.files.remove(folder)

    def _seal(self) -> Manifest:
        if missing := self.missing():
            raise UserError(
                f"found {len(missing)} of {self.num_units} shards missing in {self.path} (first: "
                f"{missing[0]}); expected all; write them before sealing"
            )
        end = self._tokens.load_end()
        if end is None:
            raise UserError(
                f"found no end of the tokens of {self.path}; expected them first; write them"
            )
        return seal(self.files, self.settings, end)

    def _write_unit(
        self, unit: int, arrays: dict[str, np.ndarray], ids: np.ndarray, trainable: np.ndarray
    ) -> bool:
        token, specs = uuid.uuid4().hex, self._of_unit(unit)
        commit = write_unit(self.files, self.settings, unit, token, arrays, ids, trainable)
        try:
            is_ours = self._create_commit(unit, commit)
        except Exception:
            with suppress(Exception):  # on a full disk the files go, unless the commit is there
                settle = publish if self._is_committed_by(unit, token) else discard
                settle(self.files, specs, unit, token)
            raise
        settle = publish if is_ours else discard  # what the other one wrote stays as it is
        settle(self.files, specs, unit, token)
        return is_ours

    def _is_committed_by(self, unit: int, token: str) -> bool:
        try:
            return load_commit(self.files, unit).token == token
        except FileNotFoundError:
            return False

    def _create_commit(self, unit: int, commit: UnitCommit) -> bool:
        """Vouch for a unit; False if another writer did first, or the store is sealed by now."""
        name = commit_file(unit)
        try:
            # of an answer that was lost on its way the second try says that there is one: ours
            is_ours = self.files.create(name, dump(commit))
            is_ours = is_ours or self._is_committed_by(unit, commit.token)
        except FileNotFoundError:
            if not self.sealed:
                raise
            return False
        if is_ours and self.sealed:  # which took the commits away: there was one
            self.files.remove(name)
            return False
        return is_ours

    def _of_unit(self, unit: int) -> list[Any]:
        return of_unit(self._specs, is_held_out(unit, self.settings.held_out))


def _up(name: str) -> list[str]:
    """A folder's name, and those of all it is in up to the store's own."""
    path = Path(name)
    return [str(path), *(str(parent) for parent in path.parents)]
