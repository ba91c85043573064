"""Chunks kept nearby: read once from the store, bounded, shared by processes, never believed."""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from sae_dist.common.errors import UserError
from sae_dist.common.files import crc32c
from sae_dist.store import CacheConfig, StoreWriter, open_store
from sae_dist.store.cache import ChunkCache
from sae_dist.store.files import Files
from tests.store.conftest import Data, everything

NAMES = ("a" * 64, "b" * 64, "c" * 64)


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.parent.name in NAMES)


def chunk(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, 1000, np.uint8)


def has(cache: ChunkCache, seed: int) -> bool:
    out, wanted = np.zeros(1000, np.uint8), chunk(seed)
    is_there = cache.read_into(str(seed), out, crc32c(wanted))
    assert not is_there or (out == wanted).all()
    return is_there


def test_a_store_is_read_once_and_what_is_kept_is_not_believed(
    data: Data,
    create: Callable[..., StoreWriter],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data.fill(create())
    expected = everything(open_store(tmp_path / "store"), "in.0").nan_to_num()
    cache, reads = CacheConfig(folder=str(tmp_path / "near")), []
    real = Files.read_into

    def read_into(files: Files, name: str, offset: int, out: np.ndarray) -> None:
        reads.append((name, offset))
        real(files, name, offset, out)

    monkeypatch.setattr(Files, "read_into", read_into)
    for _ in range(2):
        store = open_store(tmp_path / "store", cache=cache)
        assert everything(store, "in.0").nan_to_num().equal(expected)
    assert len(reads) == len(set(reads)) > 0
    flipped, short = sorted((tmp_path / "near").rglob("rows+activations*"))[:2]
    flipped.write_bytes(b"\0" + flipped.read_bytes()[1:])
    os.truncate(short, 9)
    for _ in range(2):
        assert everything(store, "in.0").nan_to_num().equal(expected)
    assert len(reads) == len(set(reads)) + 2


def test_what_is_full_keeps_what_it_has_and_stores_that_nobody_reads_go_first(
    tmp_path: Path,
) -> None:
    first, second = (ChunkCache(tmp_path, 4500, name) for name in NAMES[:2])
    for seed in range(2):
        first.put(str(seed), chunk(seed))
        second.put(str(seed), chunk(seed))
    second.put("2", chunk(2))
    assert [has(second, seed) for seed in range(3)] == [True, True, False]
    assert size(tmp_path) == 4000
    del first
    third = ChunkCache(tmp_path, 4500, NAMES[2])
    for seed in range(4):
        third.put(str(seed), chunk(seed))
    assert [has(third, seed) for seed in range(4)] == [True, True, False, False]
    assert [has(second, seed) for seed in range(2)] == [True, True]
    again = ChunkCache(tmp_path, 4500, NAMES[0])
    assert not has(again, 0) and size(tmp_path) == 4000


def fill(folder: Path, name: str) -> None:
    cache = ChunkCache(folder, 30_000, name)
    for seed in range(25):
        cache.put(str(seed), chunk(seed))
        has(cache, seed)


def test_processes_together_stay_within_the_bound(tmp_path: Path) -> None:
    with ProcessPoolExecutor(3, get_context("fork")) as pool:
        list(pool.map(fill, [tmp_path] * 3, [NAMES[0], NAMES[0], NAMES[1]]))
    assert 20_000 < size(tmp_path) <= 30_000 and not list(tmp_path.rglob("*.tmp"))


def test_a_folder_that_cannot_be_and_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file"):
        ChunkCache(tmp_path / "file", 9000, NAMES[0])
    cache = ChunkCache(tmp_path, 9000, NAMES[0])

    def full(path: Path, content: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    cache.put("0", chunk(0))
    assert "no more chunks are kept" in capsys.readouterr().err
    monkeypatch.undo()
    cache.put("1", chunk(1))
    assert not has(cache, 1)
