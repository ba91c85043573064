"""Writing a store: tokens unit by unit, activations in any order by any process, then the seal.

Every step ends in one atomic commit, so a killed writer leaves a store that can be continued.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np

from sae_dist.common.disk import explain_disk_errors
from sae_dist.common.errors import UserError
from sae_dist.common.log import warn
from sae_dist.store.config import StoreConfig
from sae_dist.store.contents import assemble, clear_up
from sae_dist.store.files import Files, files_at
from sae_dist.store.layout import Layout
from sae_dist.store.records import (
    MANIFEST_FILE,
    SETTINGS_FILE,
    TOKENS,
    TOKENS_END,
    UNIT_COMMITS,
    Manifest,
    Settings,
    TokensEnd,
    UnitCommit,
    UnitTokens,
    choose_settings,
    commit_file,
    dump,
    list_units,
    load,
    load_commit,
    load_end,
    load_settings,
    load_tokens,
    require_same,
    tokens_file,
)
from sae_dist.store.unit import UnitFiles


class StoreWriter:
    """Writes one store; any number of processes may hold one each, for different units.

    Attributes: `path`, the store's folder; `files`, what reaches it; and `settings`, what it was
    started with.
    """

    def __init__(self, files: Files, settings: Settings) -> None:
        self.path = files.path()
        self.files = files
        self.settings = settings
        self._arrays = list(settings.specs())
        self._end: TokensEnd | None = None
        files.make_folders([*self._arrays, *(() if self.sealed else (UNIT_COMMITS, TOKENS))])

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
            if names and not {SETTINGS_FILE, MANIFEST_FILE} & {*names}:
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
    def num_units(self) -> int | None:
        """How many there are in all; None while the end of the tokens is not known."""
        end = self._load_end()
        return None if end is None else self.settings.layout(end.num_sequences).num_units

    @property
    def layout(self) -> Layout:
        """The grid, with its final length. Raises UserError before that is known."""
        if (end := self._load_end()) is None:
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
        shape = (len(ids), self.settings.sequence_length)
        found = [(array.shape, array.dtype.name) for array in (ids, trainable)]
        if found != [(shape, "int32"), (shape, "bool")]:
            raise UserError(
                f"found input_ids {found[0]} and trainable {found[1]}; expected int32 and bool of "
                f"{shape}; pack the tokens to the store's sequence length"
            )
        self.files.create(tokens_file(unit), UnitTokens.of(ids, trainable, cursor).encode())

    def end_tokens(self, num_sequences: int, fingerprint: dict[str, Any]) -> None:
        """Say that all tokens are written, and what they are of (JSON); unless that is said."""
        if num_sequences == 0:
            raise UserError("found no sequence; expected at least one; check the input")
        end = TokensEnd(num_sequences=num_sequences, fingerprint=fingerprint)
        self.files.create(TOKENS_END, dump(end))

    def has_tokens(self, unit: int) -> bool:
        """Whether a unit's tokens are there, by one request."""
        return self.files.exists(tokens_file(unit))

    def tokens_written(self) -> tuple[int, Any]:
        """(units, from 0 on, that have their tokens, the cursor after them), by one listing."""
        units = list_units(self.files, TOKENS)
        num = next(n for n in range(len(units) + 1) if n not in units)
        return num, load_tokens(self.files, num - 1).cursor if num else None

    def read_tokens(self, unit: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids int32 [n, S], trainable bool [n, S]) of one unit. Raises UserError before that."""
        try:
            return load_tokens(self.files, unit).arrays()
        except FileNotFoundError as error:
            raise UserError(
                f"found no {tokens_file(unit)} in {self.path}; expected the tokens first; write "
                "them"
            ) from error

    def committed(self) -> set[int]:
        """Units that are written, by one listing."""
        return list_units(self.files, UNIT_COMMITS)

    def is_committed(self, unit: int) -> bool:
        """Whether a unit is written, by any process."""
        return self.files.exists(commit_file(unit)) or self.sealed

    def missing(self) -> list[int]:
        """Units with tokens and no commit, in order: of a sealed store none."""
        if self.sealed:
            return []
        num_units = self.num_units
        units = list_units(self.files, TOKENS) if num_units is None else set(range(num_units))
        return sorted(units - self.committed())

    def bytes_needed(self) -> int:
        """Bytes on disk that what is missing will take at most, checksums and indices included."""
        if self.sealed:
            return 0
        end = self._load_end()
        num_sequences = self.settings.num_sequences if end is None else end.num_sequences
        return sum(self.settings.bytes_by_array(num_sequences or 0, self.committed()).values())

    def write_unit(self, unit: int, arrays: dict[str, np.ndarray]) -> bool:
        """Write one unit of every site and commit it; False if another writer committed it first.

        `arrays` holds, for each site, [n, S, d] in the storage dtype, where n is the unit's number
        of sequences. Raises UserError, before anything is committed, for other shapes or dtypes,
        for NaN or infinity at a trainable token (naming unit, site and sequence) unless such tokens
        are dropped, and for too many dropped ones.
        """
        if self.is_committed(unit):
            return False
        unit_files = UnitFiles(self.files, self.settings, unit)
        try:
            commit = unit_files.write(arrays, *self.read_tokens(unit))
            return self._commit(commit, unit_files)
        except (FileNotFoundError, UserError):
            if self.sealed:  # by another job meanwhile: what this one needs has gone
                return False
            raise

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
        clear_up(self.files, self._arrays)  # after a process that was killed at it
        return manifest

    def abandon(self) -> None:
        """Remove a store that holds no tokens yet; its folder, too, if nothing else is in it."""
        self.files.remove(SETTINGS_FILE)
        self.files.remove_folders([*self._arrays, UNIT_COMMITS, TOKENS])

    def _seal(self) -> Manifest:
        if missing := self.missing():
            raise UserError(
                f"found {len(missing)} of {self.num_units} shards missing in {self.path} (first: "
                f"{missing[0]}); expected all; write them before sealing"
            )
        commits = {u: load_commit(self.files, u) for u in range(self.layout.num_units)}
        contents = assemble(self.files, self.settings, self._load_end(), commits)
        assert contents is not None
        contents.publish()
        if self.settings.held_out > 0 and not contents.is_held_out.any():
            warn(f"{self.path} has one unit only: nothing is held out for evaluation")
        contents.seal()
        return contents.manifest

    def _load_end(self) -> TokensEnd | None:
        """Read once, since it never changes."""
        if self._end is None:
            self._end = load_end(self.files)
        return self._end

    def _commit(self, commit: UnitCommit, unit_files: UnitFiles) -> bool:
        """Vouch for a unit; False if another writer did first, whose files stay as they are."""
        try:
            is_ours = self._create_commit(commit)
        except Exception:
            with suppress(Exception):  # on a full disk the files go, unless the commit is there
                unit_files.settle(is_committed=self._is_there(commit))
            raise
        unit_files.settle(is_committed=is_ours)
        return is_ours

    def _create_commit(self, commit: UnitCommit) -> bool:
        name = commit_file(commit.unit)
        try:
            # of an answer that was lost on its way the second try says that there is one: ours
            is_ours = self.files.create(name, dump(commit)) or self._is_there(commit)
        except FileNotFoundError:
            if not self.sealed:
                raise
            return False
        if is_ours and self.sealed:  # which took the commits away: there was one
            self.files.remove(name)
            return False
        return is_ours

    def _is_there(self, commit: UnitCommit) -> bool:
        try:
            return load_commit(self.files, commit.unit).token == commit.token
        except FileNotFoundError:
            return False
