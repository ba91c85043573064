"""A store from activations that come from anywhere."""

import shutil
import uuid
from collections.abc import Iterable, Iterator
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sae_dist.common.dtypes import FloatDtype, to_storage
from sae_dist.common.errors import UserError
from sae_dist.common.files import fsync_path
from sae_dist.store.config import StoreConfig
from sae_dist.store.reader import Store, open_store
from sae_dist.store.records import choose_settings
from sae_dist.store.writer import StoreWriter

Array = np.ndarray | torch.Tensor
Blocks = Iterable[Array] | Array
_IDS, _TRAINABLE = "/input_ids", "/trainable"  # among the sites, whose names have no slash


def write_store(
    path: str | Path,
    arrays: dict[str, Blocks],
    *,
    dtype: str = "bfloat16",
    input_ids: Blocks | None = None,
    trainable: Blocks | None = None,
    held_out: float = 0.05,
    chunk_mib: float = 2.0,
    shard_mib: float = 256.0,
    provenance: dict[str, Any] | None = None,
) -> Store:
    """Write, seal and open a store from float activations (numpy or torch) of one or more sites.

    Each site gives blocks [n, d] (every row a sequence of one position) or [n, S, d], of any
    lengths, or is one such array; sites need the same total. `input_ids` (integers; −1 where not
    given) and `trainable` (bool; true where not given) come likewise as [n] or [n, S]. Values are
    rounded to `dtype`. Memory: a shard of all sites, another of one site, and a block of each. How
    many sequences come from an iterator (and not as an array or a list of them) is known ahead only
    where they fill one shard at most: of more, the last shard is filled up to the size of the
    others. The store appears at `path` only when whole. Raises UserError when `path` exists, when
    sites differ in length or positions, and for NaN or infinity at trainable tokens.
    """
    target = Path(path)
    if target.exists():
        raise UserError(f"found {target}; expected a new path; choose another or remove it")
    if dtype not in list(FloatDtype):
        raise UserError(
            f"found dtype {dtype!r}; expected one of {', '.join(FloatDtype)}; choose one"
        )
    config = StoreConfig(
        dtype=FloatDtype(dtype), chunk_mib=chunk_mib, shard_mib=shard_mib, held_out=held_out
    )
    given = {site: _blocks(blocks) for site, blocks in arrays.items()}
    streams = {site: _activations(site, blocks, config.dtype) for site, blocks in given.items()}
    firsts = {site: [*islice(stream, 1)] for site, stream in streams.items()}
    shapes = {site: first[0].shape[1:] for site, first in firsts.items() if first}
    if len(shapes) < len(arrays) or len({length for length, _ in shapes.values()}) != 1:
        raise UserError(
            f"found blocks of [positions, width] { ({s: list(v) for s, v in shapes.items()}) } for "
            f"sites {list(arrays)}; expected equal positions at each; mend the arrays"
        )
    streams = {site: chain(firsts[site], stream) for site, stream in streams.items()}
    length = next(iter(shapes.values()))[0]
    widths = {site: width for site, (_, width) in shapes.items()}
    totals = [
        sum(map(len, blocks)) for blocks in given.values() if isinstance(blocks, list | tuple)
    ]
    total = next(filter(None, totals), None)
    if total is None:
        site, stream = next(iter(streams.items()))
        most = choose_settings(widths, length, config, {}, None).shard_sequences
        total, streams[site] = _drawn_ahead(stream, most)
    if input_ids is not None:
        streams[_IDS] = _tokens(_blocks(input_ids), torch.int32)
    if trainable is not None:
        streams[_TRAINABLE] = _tokens(_blocks(trainable), torch.bool)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        _write(
            StoreWriter.create(partial, widths, length, config, provenance or {}, total), streams
        )
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    fsync_path(target.absolute().parent)
    return open_store(target)


def _write(writer: StoreWriter, streams: dict[str, Iterator[np.ndarray]]) -> None:
    """Write and seal a store of what the streams give, unit after unit."""
    size, positions = writer.settings.shard_sequences, writer.settings.sequence_length
    cut, num_sequences = [_rebatched(stream, size) for stream in streams.values()], 0
    for unit, blocks in enumerate(zip_longest(*cut, fillvalue=np.empty(0))):
        arrays = dict(zip(streams, blocks, strict=True))
        ends = {name: unit * size + len(array) for name, array in arrays.items()}
        short, long = min(ends, key=ends.__getitem__), max(ends, key=ends.__getitem__)
        if ends[short] < ends[long]:
            raise UserError(
                f"found {ends[short]} sequences of {short} and at least {ends[long]} of {long}; "
                "expected equal totals; mend the arrays"
            )
        num_sequences = ends[long]
        shape = (len(blocks[0]), positions)
        ids = arrays.pop(_IDS, np.full(shape, -1, np.int32))
        trainable = arrays.pop(_TRAINABLE, np.full(shape, True))
        writer.put_tokens(unit, ids, trainable, None)
        writer.write_unit(unit, arrays)
    writer.end_tokens(num_sequences, {})
    writer.seal()


def _blocks(blocks: Blocks) -> Iterable[Array]:
    return [blocks] if isinstance(blocks, np.ndarray | torch.Tensor) else blocks


def _drawn_ahead(
    stream: Iterator[np.ndarray], most: int
) -> tuple[int | None, Iterator[np.ndarray]]:
    """How many sequences there are, None for more than `most`; and the stream as it was."""
    drawn, held = 0, list[np.ndarray]()
    while drawn <= most and (block := next(stream, None)) is not None:
        held.append(block)
        drawn += len(block)
    again = (held.pop(0) for _ in range(len(held)))  # and let go of
    return drawn if 0 < drawn <= most else None, chain(again, stream)


def _tensor(block: Array) -> torch.Tensor:
    """A CPU tensor; numpy arrays are copied, since they may be read-only."""
    return torch.tensor(block) if isinstance(block, np.ndarray) else block.detach().cpu()


def _activations(site: str, blocks: Iterable[Array], dtype: FloatDtype) -> Iterator[np.ndarray]:
    """Each block as a storage array [n, S, d]."""
    shape: list[int] | None = None
    for block in blocks:
        x = _tensor(block)
        x = x.unsqueeze(1) if x.ndim == 2 else x
        shape = shape or list(x.shape[1:])
        if not x.is_floating_point() or x.ndim != 3 or list(x.shape[1:]) != shape:
            raise UserError(
                f"found a block of {x.dtype} {list(x.shape)} at site {site}; expected floats "
                f"[n, {', '.join(map(str, shape))}]; mend the arrays"
            )
        yield to_storage(x, dtype)


def _tokens(blocks: Iterable[Array], dtype: torch.dtype) -> Iterator[np.ndarray]:
    """Each block of token ids or trainable marks as an array [n, S]."""
    for block in blocks:
        x = _tensor(block)
        exact = x.to(dtype)
        if x.is_floating_point() or (x.dtype is torch.bool) != (dtype is torch.bool):
            raise UserError(f"found tokens of {x.dtype}; expected {dtype}; convert them")
        if not torch.equal(exact.to(x.dtype), x):
            raise UserError(f"found token ids up to {x.max()}; expected {dtype}; mend them")
        yield (exact.unsqueeze(1) if x.ndim == 1 else exact).numpy()


def _rebatched(blocks: Iterable[np.ndarray], length: int) -> Iterator[np.ndarray]:
    """The rows of `blocks`, `length` at a time; the last may be fewer.

    No block is drawn that is not needed. Memory: one new block and one given block.
    """
    parts, held = list[np.ndarray](), 0
    for block in blocks:
        for part in np.split(block, range(length - held, len(block), length)):
            parts.append(part)
            held += len(part)
            if held == length:
                yield np.concatenate(parts)
                parts, held = [], 0
    if held:
        yield np.concatenate(parts)
