"""One rung's latents as files for the pages.

RUNG/list.js            a row a latent, for the table: `fired`, `max`, `cosine`, and the tokens
                        `peaks` and `promoted`, [F, 3]
RUNG/latents/START.js   all that is known of `PER_FILE` latents
RUNG/peaks/, promoted/, text/   by token, by token and by sequence the latents that are found so
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sae_dist.latents import Latents
from sae_dist.latents.folder import COLUMNS
from sae_dist.pages.packed import packed, write_postings

PER_FILE = 64
_SHOWN = 3
_NONE = -1


def write_rung(latents: Latents, folder: Path) -> None:
    """Write the files of one rung into a new folder, range by range of its latents.

    What is held of all of them is the table and the index: with 20 strongest examples and 10 logits
    some 0.7 kB a latent, 0.7 GB a million.
    """
    table: dict[str, list[np.ndarray]] = defaultdict(list)
    index: dict[str, list[dict[str, np.ndarray]]] = defaultdict(list)
    beside = latents.beside()
    (folder / "latents").mkdir(parents=True)
    for own in latents.ranges():
        columns = {name: latents.column(name, own) for name in COLUMNS if latents.has(name)}
        for other, (nearest, cosine) in beside.items():
            columns[f"nearest/{other}"] = nearest[own.start : own.stop]
            columns[f"cosine/{other}"] = cosine[own.start : own.stop]
        _write_latents(folder / "latents", own, columns)
        for name, column in _row(latents, columns).items():
            table[name].append(column)
        for name, postings in _postings(latents, own, columns):
            index[name].append(postings)
    starts = {}
    for name in [*index]:
        several = index.pop(name)
        joined = {key: np.concatenate([part.pop(key) for part in several]) for key in [*several[0]]}
        starts[name] = write_postings(folder / name, joined.pop("keys"), joined)
    arrays = {name: np.concatenate(parts) for name, parts in table.items()}
    (folder / "list.js").write_bytes(packed(arrays, **starts))


def _write_latents(folder: Path, own: range, columns: dict[str, np.ndarray]) -> None:
    for start in range(own.start, own.stop, PER_FILE):
        part = slice(start - own.start, start - own.start + PER_FILE)
        arrays = {name: column[part] for name, column in columns.items()}
        (folder / f"{start}.js").write_bytes(packed(arrays))


def _row(latents: Latents, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    peaks_nX = _peaks(latents, columns)
    row, token, count, first = _counted(peaks_nX)
    order = np.lexsort((first, -count, row))  # the most frequent first, then the strongest
    row, token = row[order], token[order]
    rank = np.arange(len(row)) - np.searchsorted(row, row)
    peaks_n3 = np.full((len(peaks_nX), _SHOWN), _NONE, np.int32)
    is_shown = rank < _SHOWN
    peaks_n3[row[is_shown], rank[is_shown]] = token[is_shown]
    found = {"fired": columns["fired"], "max": columns["max"], "peaks": peaks_n3}
    if columns["cosine"].shape[1]:
        found["cosine"] = columns["cosine"][:, 0]
    if "top_tokens" in columns:
        found["promoted"] = columns["top_tokens"][:, :_SHOWN]
    return found


def _postings(
    latents: Latents, own: range, columns: dict[str, np.ndarray]
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    row, token, count, _ = _counted(_peaks(latents, columns))
    yield "peaks", {"keys": token, "latents": _numbers(own, row), "counts": count}
    if "top_tokens" in columns:
        row, rank = np.nonzero(columns["top_tokens"] >= 0)
        tokens = columns["top_tokens"][row, rank]
        yield (
            "promoted",
            {"keys": tokens, "latents": _numbers(own, row), "ranks": rank.astype(np.int16)},
        )
    length = latents.about.sequence_length
    row, place = np.nonzero(_is_strongest(columns))
    sequence, position = np.divmod(columns["examples"][row, place], length)
    yield (
        "text",
        {
            "keys": sequence.astype(np.int32),
            "latents": _numbers(own, row),
            "positions": position.astype(np.int32),
            "starts": (columns["starts"][row, place] % length).astype(np.int32),
        },
    )


def _is_strongest(columns: dict[str, np.ndarray]) -> np.ndarray:
    """Which examples are of the strongest of all, bool [n, X]."""
    return (columns["examples"] >= 0) & (columns["groups"] == 0)


def _peaks(latents: Latents, columns: dict[str, np.ndarray]) -> np.ndarray:
    """The token at the peak of each of the strongest examples, -1 for others, int32 [n, X]."""
    token_ids = latents.token_ids_NS.reshape(-1)
    at = np.maximum(columns["examples"], 0)
    return np.where(_is_strongest(columns), token_ids[at], _NONE).astype(np.int32)


def _counted(tokens_nX: np.ndarray) -> tuple[np.ndarray, ...]:
    """How often each token stands in a row: row, token, count and its first place, [M] each."""
    row, place = np.nonzero(tokens_nX >= 0)
    tokens = tokens_nX[row, place].astype(np.int64)
    size = int(tokens.max(initial=0)) + 1
    key, at, count = np.unique(row * size + tokens, return_index=True, return_counts=True)
    return key // size, (key % size).astype(np.int32), count.astype(np.int32), place[at]


def _numbers(own: range, row: np.ndarray) -> np.ndarray:
    return (own.start + row).astype(np.int32)
