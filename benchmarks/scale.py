"""What it costs to open a store, begin an epoch and deal a unit, by the number of tokens.

Stores of one site of 2,304 that have manifests and no data, at 64 ranks: what is timed is all
but reading activations, in seconds of one rank's processor.
"""

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from matplotlib.figure import Figure as Page

from benchmarks.figures import Figure
from sae_dist.harvest import Units
from sae_dist.store import StoreConfig, StoreWriter, open_store
from sae_dist.store.contents import Contents
from sae_dist.store.files import Files, files_at
from sae_dist.store.layout import Layout
from sae_dist.store.records import (
    SETTINGS_FILE,
    Manifest,
    Settings,
    Statistics,
    choose_settings,
    commit_file,
    dump,
    tokens_file,
)
from sae_dist.stream import ActivationStream, BatchPart, StreamConfig, TokenOrder

SITE, WIDTH, POSITIONS, WORLD, BATCH = "x", 2304, 1024, 64, 4096
SMOKE = {"tokens": (10_000_000,)}
_REQUESTS = ("exists", "size", "read", "read_into", "list")
_NUM_TAKES = 50


def settings_of(num_tokens: int) -> tuple[Settings, Layout]:
    """What a store of so many tokens is, at the defaults."""
    num_sequences = num_tokens // POSITIONS
    config = StoreConfig()
    settings = choose_settings({SITE: WIDTH}, POSITIONS, config, {}, num_sequences)
    return settings, settings.layout(num_sequences)


def seal_nothing(folder: Path, num_tokens: int) -> None:
    """Write the manifest of a store, and no data."""
    settings, layout = settings_of(num_tokens)
    lengths = [len(layout.sequences_of(unit)) for unit in range(layout.num_units)]
    manifest = Manifest(
        settings=settings,
        num_sequences=layout.num_sequences,
        rows=[length * (POSITIONS - 1) for length in lengths],
        statistics={SITE: Statistics(count=num_tokens, sum=np.zeros(WIDTH), sum_square=1.0)},
        dropped={},
        num_dropped=0,
        fingerprint={},
        sums="",
    )
    contents = Contents(files_at(folder), manifest)
    num_sums = sum(int(array.first_chunk[-1]) for array in contents.arrays.values())
    contents.take_sums(np.random.default_rng(0).bytes(4 * num_sums))
    contents.write_manifest()


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Requests to the store's files, by kind."""
    found: Counter[str] = Counter()
    before = {name: getattr(Files, name) for name in _REQUESTS}

    def counting(name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            found[name] += 1
            return before[name](*arguments)

        return call

    for name in _REQUESTS:
        setattr(Files, name, counting(name))
    try:
        yield found
    finally:
        for name, function in before.items():
            setattr(Files, name, function)


def opening(folder: Path) -> dict[str, float]:
    """Processor seconds of one rank until its first batch, but for reading, and its requests."""
    begun = time.process_time()
    with counted() as requests:
        store = open_store(folder)
        store.read_rows_into = lambda site, chunk, out: None  # type: ignore[method-assign]
        part = BatchPart(BATCH, 0, StreamConfig(), WORLD // 2, WORLD)
        with ActivationStream(store, [SITE], part) as stream:
            next(iter(stream))
    return {
        "first_batch_s": time.process_time() - begun,
        "requests": requests.total(),
        "manifest_mb": sum(file.stat().st_size for file in folder.glob("*.*")) / 1e6,
    }


def epoch(folder: Path) -> dict[str, float]:
    """Processor seconds of an epoch's order and its first bucket."""
    store = open_store(folder)
    part = BatchPart(BATCH, 0, StreamConfig(), 1, WORLD)
    order = TokenOrder(store.chunk_rows, store.unit_of_chunk, BATCH, part.bucket_tokens, 0)
    begun = time.process_time()
    next(order.shares(order.steps_in_epoch, part.rows))
    return {"chunks": len(store.chunk_rows), "epoch_s": time.process_time() - begun}


def dealing(folder: Path, num_tokens: int) -> dict[str, float]:
    """Milliseconds of a process' bookkeeping for each of a store's last units."""
    settings, layout = settings_of(num_tokens)
    files = files_at(folder)
    writer_folders = [str(Path(name).parent) for name in (commit_file(0), tokens_file(0))]
    files.make_folders(["", *writer_folders])
    files.write(SETTINGS_FILE, dump(settings))
    for unit in range(layout.num_units):
        (folder / tokens_file(unit)).touch()
        if unit < layout.num_units - _NUM_TAKES:
            (folder / commit_file(unit)).touch()
    writer = StoreWriter.open(folder)
    writer.end_tokens(layout.num_sequences, {})
    begun = time.perf_counter()
    units = Units(writer, dist.HashStore())
    start_s = time.perf_counter() - begun
    if units.take() is None:
        raise RuntimeError("no unit is left")
    begun = time.perf_counter()
    for _ in range(_NUM_TAKES - 1):
        unit = units.take()
        (folder / commit_file(-1 if unit is None else unit)).touch()
    ms = (time.perf_counter() - begun) / (_NUM_TAKES - 1) * 1e3
    return {"units": layout.num_units, "harvest_start_s": start_s, "unit_ms": ms}


def run(tokens: tuple[int, ...] = (10**8, 10**9, 10**10)) -> Iterator[Figure]:
    """Costs that could grow with the number of tokens."""
    for num_tokens in tokens:
        with tempfile.TemporaryDirectory() as folder:
            sealed, growing = Path(folder) / "sealed", Path(folder) / "growing"
            seal_nothing(sealed, num_tokens)
            first, order = opening(sealed), epoch(sealed)
            deal = dealing(growing, num_tokens)
        at = f"at {num_tokens:.0e} tokens".replace("e+", "e")
        target = "≤ 10 s" if num_tokens == 10**9 else ""
        first["tokens"] = order["tokens"] = deal["tokens"] = num_tokens
        yield Figure(f"first batch {at}", first["first_batch_s"], "s", target=target, more=first)
        yield Figure(f"an epoch's order {at}", order["epoch_s"], "s", more=order)
        yield Figure(f"start of a harvest {at}", deal["harvest_start_s"], "s", more=deal)
        yield Figure(f"a unit's bookkeeping {at}", deal["unit_ms"], "ms")


def draw(figures: Sequence[Figure], folder: Path) -> list[str]:
    """Each cost by the number of tokens, on logarithmic axes; the drawing's file."""
    page = Page(figsize=(6, 4), layout="constrained")
    axes = page.subplots()
    labels = {
        "first batch": "open a store, one rank's first batch",
        "an epoch's order": "begin an epoch",
        "start of a harvest": "start a harvest again",
    }
    for name, label in labels.items():
        own = [figure for figure in figures if figure.name.startswith(name)]
        xs = [figure.more["tokens"] for figure in own]
        axes.loglog(xs, [figure.value for figure in own], marker="o", label=label)
    axes.set(xlabel="tokens of 2,304 values, 64 ranks", ylabel="seconds, without reading data")
    axes.minorticks_off()
    axes.legend(frameon=False)
    page.savefig(folder / "scale.svg", metadata={"Date": None})
    return ["scale.svg"]
