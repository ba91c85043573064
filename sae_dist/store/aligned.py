"""Several stores of the same tokens as one: two language models', side by side."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from sae_dist.common.errors import UserError
from sae_dist.common.joint import at_model, model_and_site
from sae_dist.store.layout import INDEX, INPUT_IDS, MARKS
from sae_dist.store.reader import Store
from sae_dist.store.records import Statistics


class AlignedStores(Store):
    """A store, and others of the same tokens in the same order; read as one store is.

    Sites of the first keep their names; `resid_post.3` of the store `chat` is `chat:resid_post.3`.
    """

    def __init__(self, first: Store, others: Mapping[str, Store]) -> None:
        """Raises UserError, in one line, for stores whose tokens are not the same."""
        for name, other in others.items():
            _require_same_tokens(first, name, other)
        self.__dict__ |= first.__dict__
        self._first, self._others = first, dict(others)
        for name, other in others.items():
            self.sites |= {at_model(name, site): width for site, width in other.sites.items()}
        identities = [first.hash, *(f"{name}={one.hash}" for name, one in sorted(others.items()))]
        self.hash = hashlib.sha256("\n".join(identities).encode()).hexdigest()

    @property
    def provenance(self) -> dict[str, Any]:
        """The first store's; those of the others by name, at `aligned`."""
        aligned = {n: {"store": str(o.path), **o.provenance} for n, o in self._others.items()}
        return {**self._first.provenance, "aligned": aligned}

    def statistics(self, site: str) -> Statistics:
        """As of the store that the site is of."""
        store, name = self._place(site)
        return store.statistics(name)

    def read_rows_into(self, site: str, chunk: int, out: np.ndarray) -> None:
        """As of the store that the site is of."""
        store, name = self._place(site)
        store.read_rows_into(name, chunk, out)

    def read_sequences(self, site: str, sequences: range) -> np.ndarray:
        """As of the store that the site is of."""
        store, name = self._place(site)
        return store.read_sequences(name, sequences)

    def _place(self, site: str) -> tuple[Store, str]:
        self._require(site)
        of, name = model_and_site(site)
        return (self._others[of], name) if of else (self._first, site)


def _require_same_tokens(first: Store, name: str, other: Store) -> None:
    """Their files' checksums say that ids, marks and the order of rows are the same."""
    found = next(_differences(first, other), None)
    if found is not None:
        raise UserError(
            f"found aligned.{name}={other.path} with {found} than {first.path}; expected the same "
            "tokens in the same order; harvest both from one text with one tokenizer, at sites of "
            "the same number and width, and with the same writer settings"
        )


def _differences(first: Store, other: Store) -> Iterator[str]:
    if first.layout != other.layout or first.manifest.rows != other.manifest.rows:
        yield "another layout of its tokens"
    if first.dtype is not other.dtype:
        yield f"another dtype ({other.dtype}, not {first.dtype})"
    for path, what in ((INPUT_IDS, "other token ids"), (MARKS, "other tokens trained on")):
        if not np.array_equal(first.token_sums(path), other.token_sums(path)):
            yield what
    if not np.array_equal(first.token_sums(INDEX), other.token_sums(INDEX)):
        yield "another order of its rows"
