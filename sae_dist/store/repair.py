"""Mending a store from what is whole in it; only activations and tokens come from elsewhere.

Files are replaced where they lie, each at once: a repair that was killed is simply started again.
"""

import msgspec
import numpy as np

from sae_dist.common.errors import UserError
from sae_dist.store.contents import Contents
from sae_dist.store.layout import TOKEN_ARRAYS
from sae_dist.store.reader import Store
from sae_dist.store.records import MANIFEST_FILE, SETTINGS_FILE, Manifest, UnitCommit, commit_file
from sae_dist.store.unit import UNTRAINABLE, UnitFiles, unit_statistics
from sae_dist.store.values import Statistics
from sae_dist.store.verify import Audit


class Repair:
    """What an audit calls for.

    Attributes:
        is_sealed: if not, `withdraw` is all there is to do, and the harvest goes on.
        bad_units: those whose activations are to be harvested again.
        bad_tokens: those of them whose tokens come from the text.
    """

    def __init__(self, audit: Audit) -> None:
        """Raises UserError when too much is lost to go by, and for a folder that is a link."""
        path = audit.files.path()
        if audit.stopped_by is not None:
            raise audit.stopped_by
        if audit.is_sealed and audit.contents is None:
            raise UserError(
                f"found {MANIFEST_FILE} or its sums damaged in {path}, and their copies; "
                "expected one whole; restore one from a copy of the store"
            )
        if SETTINGS_FILE in audit.bad_records:
            raise UserError(
                f"found damaged {SETTINGS_FILE} in {path}; expected it whole; restore it "
                "from a copy, or harvest into another path"
            )
        self.is_sealed, self.bad_units = audit.is_sealed, audit.bad_units
        self.bad_tokens = audit.bad_tokens
        self._files, self._contents = audit.files, audit.contents
        self._bad_records = audit.bad_records
        self._changed: dict[int, UnitCommit] = {}

    @property
    def contents(self) -> Contents:
        """What a sealed store's files hold."""
        assert self._contents is not None
        return self._contents

    @property
    def manifest(self) -> Manifest:
        """What vouches for a sealed store's units."""
        return self.contents.manifest

    def mend_records(self) -> None:
        """Write the seal, its copies and the arrays' metadata again."""
        self.contents.seal()

    def withdraw(self) -> None:
        """Have the bad units of a store that is not sealed count as not harvested."""
        for name in [*self._bad_records, *map(commit_file, self.bad_units)]:
            self._files.remove(name)

    def read_tokens(self, unit: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids int32 [n, S], trainable bool [n, S]) as they were before any was dropped."""
        sequences = self.contents.layout.sequences_of(unit)
        ids, marks = Store(self.contents).read_marked_tokens(sequences)
        return ids, marks != UNTRAINABLE

    def rewrite(
        self, unit: int, arrays: dict[str, np.ndarray], ids: np.ndarray, trainable: np.ndarray
    ) -> None:
        """Write a unit of a sealed store again; see `StoreWriter.write_unit`.

        Raises UserError, and changes no file, for other tokens than those that were harvested.
        """
        unit_files = UnitFiles(self._files, self.manifest.settings, unit)
        commit, all_arrays = unit_files.write(arrays, ids, trainable), self.contents.arrays
        expected = {path: all_arrays[path].sums_of(unit).tobytes() for path in commit.sums}
        is_same_text = all(commit.sums[path] == expected[path] for path in TOKEN_ARRAYS)
        unit_files.settle(is_committed=is_same_text)
        if not is_same_text:
            raise UserError(
                f"found another text, or other tokens to drop, in unit {unit}; expected those that "
                "were harvested; give the text that was harvested with text_path=…"
            )
        if commit.sums != expected:
            self._changed[unit] = commit

    def finish(self) -> bool:
        """Vouch for what was written; False where that is not what was there before.

        Then the statistics are summed anew, from all training units.
        """
        if not self._changed:
            return True
        for unit, commit in self._changed.items():
            for path, sums in commit.sums.items():
                self.contents.arrays[path].sums_of(unit)[:] = np.frombuffer(sums, "<u4")
        self.contents.take_sums(self.contents.all_sums())
        if not all(self.contents.is_held_out[unit] for unit in self._changed):
            self.contents.manifest = msgspec.structs.replace(
                self.manifest,
                statistics={site: self._statistics(site) for site in self.manifest.settings.widths},
            )
        self.contents.write_manifest()
        return False

    def _statistics(self, site: str) -> Statistics:
        """Of all training units, as sealing added them up."""
        store, settings = Store(self.contents), self.manifest.settings
        layout, total = store.layout, Statistics.zero(settings.widths[site])
        for unit in np.flatnonzero(~self.contents.is_held_out).tolist():
            sequences = layout.sequences_of(unit)
            shape = (len(sequences), layout.sequence_length)
            x_TD = np.zeros((len(sequences) * layout.sequence_length, settings.widths[site]))
            x_TD = x_TD.astype(settings.dtype.storage)
            is_kept_T = np.zeros(len(x_TD), bool)
            for chunk in np.flatnonzero(store.unit_of_chunk == unit).tolist():
                place = store.read_index(chunk) - sequences.start * layout.sequence_length
                x_TD[place], is_kept_T[place] = store.read_rows(site, chunk), True
            x_NSD, kept_NS = x_TD.reshape(*shape, -1), is_kept_T.reshape(shape)
            total += unit_statistics(settings, unit, site, x_NSD, kept_NS)
        return total
