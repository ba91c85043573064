import json
import os
import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sae_dist.common.errors import UserError
from sae_dist.store import StoreWriter, open_store, verify
from tests.store.damage import flip, forge, swap


@pytest.fixture
def root(data: Any, create: Callable[..., StoreWriter]) -> Path:
    writer = create()
    data.fill(writer)
    assert verify(writer.path, full=True) == []
    return writer.path


def damage_size(path: Path, kind: str) -> None:
    if kind == "deleted":
        path.unlink()
    else:
        size = {"empty": 0, "shorter": path.stat().st_size - 1, "longer": path.stat().st_size + 1}
        os.truncate(path, size[kind])


@pytest.mark.parametrize("kind", ["deleted", "empty", "shorter", "longer"])
def test_every_file_of_another_size_is_named_at_opening(root: Path, kind: str) -> None:
    for path in sorted(root.glob("*/*/c.*")):
        whole = path.read_bytes()
        damage_size(path, kind)
        with pytest.raises(UserError, match=path.name):
            open_store(root)
        (fault,) = verify(root)
        assert fault.path == path
        path.write_bytes(whole)
    assert len(open_store(root).manifest.shards) == 4


def test_any_flipped_bit_is_found_by_verify_naming_the_file(root: Path) -> None:
    dice = random.Random(0)
    files = sorted(root.glob("*/*/c.*"))
    for _ in range(40):
        path = dice.choice(files)
        bit = dice.randrange(8 * path.stat().st_size)
        flip(path, bit)
        assert [fault.path for fault in verify(root, full=True)] == [path]
        flip(path, bit)
    assert verify(root, full=True) == []


def test_two_swapped_shards_are_found_by_verify(root: Path) -> None:
    first, second = root / "activations/in.0/c.0.0.0", root / "activations/in.0/c.1.0.0"
    swap(first, second)
    assert verify(root) == []
    assert [fault.path for fault in verify(root, full=True)] == [first, second]


def test_two_swapped_shards_are_found_at_reading(root: Path) -> None:
    swap(root / "activations/in.0/c.0.0.0", root / "activations/in.0/c.1.0.0")
    store = open_store(root)
    store.read_chunk("out.0", 0)
    for chunk in range(4):
        with pytest.raises(UserError, match=rf"chunk {chunk} damaged in .*c\.{chunk // 2}\.0\.0"):
            store.read_chunk("in.0", chunk)


def test_a_flipped_bit_is_found_at_reading_naming_file_and_chunk(root: Path) -> None:
    flip(root / "activations/in.0/c.1.0.0", 8 * 160)  # the second of chunks of 148 bytes
    store = open_store(root)
    store.read_chunk("in.0", 2)
    with pytest.raises(UserError, match=r"chunk 3 damaged in .*activations/in\.0/c\.1\.0\.0"):
        store.read_chunk("in.0", 3)


def test_a_damaged_index_is_found_by_verify_and_does_not_mislead_a_reader(root: Path) -> None:
    path = root / "tokens/input_ids/c.0.0"
    expected = open_store(root).read_tokens(range(6))[0].tolist()
    flip(path, 8 * (path.stat().st_size - 20))
    assert open_store(root).read_tokens(range(6))[0].tolist() == expected
    assert [fault.path for fault in verify(root, full=True)] == [path]


def test_leftovers_of_killed_writers_are_ignored(root: Path) -> None:
    (root / "activations/in.0/c.0.0.abc.partial").write_bytes(b"half")
    (root / "activations/in.0/.c.0.0.0.abc.tmp").write_bytes(b"half")
    assert verify(root, full=True) == []
    open_store(root)


HOSTILE: dict[str, Any] = {
    "huge": {"shape": [2**62, 4, 6]},
    "rank": {"shape": [23, 4, 6, 1]},
    "negative": {"shape": [-23, 4, 6]},
    "zero chunk": {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [0, 4, 6]}}},
    "zstd": {"codecs": [{"name": "zstd"}]},
    "dtype": {"data_type": "float64"},
    "version": {"zarr_format": 2},
    "unknown entry": {"extension": {"name": "x", "must_understand": True}},
}


@pytest.mark.parametrize("changes", HOSTILE.values(), ids=HOSTILE.keys())
def test_metadata_other_than_the_writers_is_refused(root: Path, changes: dict[str, Any]) -> None:
    path = root / "activations/in.0/zarr.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(UserError, match=rf"zarr\.json with {next(iter(changes))} = "):
        open_store(root)


CONTENTS = {
    "too long": (b"[" * (2**20 + 1), "longer than"),
    "nested": (b"[" * 2**20, "unreadable"),
    "not JSON": (b"\xff\x00", "unreadable"),
    "a list": (b"[1, 2]", "unreadable"),
    "a number": (b"1", "unreadable"),
    "empty": (b"", "unreadable"),
}


@pytest.mark.parametrize(("content", "message"), CONTENTS.values(), ids=CONTENTS.keys())
def test_metadata_that_is_none_is_refused(root: Path, content: bytes, message: str) -> None:
    (root / "activations/in.0/zarr.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        open_store(root)


def test_missing_or_reformatted_metadata_is_refused(root: Path) -> None:
    path = root / "tokens/trainable/zarr.json"
    path.write_text(json.dumps(json.loads(path.read_text())))
    with pytest.raises(UserError, match="written differently"):
        open_store(root)
    path.unlink()
    with pytest.raises(UserError, match="missing"):
        open_store(root)


MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "format": (lambda m: m.update(format=2), "in format 2; expected format 3"),
    "no dtype": (lambda m: m.pop("dtype"), "malformed"),
    "unknown dtype": (lambda m: m.update(dtype="int4"), "malformed"),
    "zero chunk": (lambda m: m.update(chunk_sequences=0), "positive"),
    "chunk of no position": (lambda m: m.update(chunk_positions=0), "positive"),
    "no positions": (lambda m: m.pop("chunk_positions"), "malformed"),
    "uneven sequences": (lambda m: m.update(chunk_positions=3), "whole chunks"),
    "uneven shards": (lambda m: m.update(chunk_sequences=4), "whole chunks"),
    "huge shards": (lambda m: m.update(shard_sequences=6 * 2**60), "at most"),
    "path outside": (lambda m: m["sites"].update({"../x": m["sites"]["in.0"]}), "with site"),
    "huge": (lambda m: m.update(num_sequences=2**62), "with units"),
    "a shard less": (lambda m: m["shards"].pop(), "with units"),
    "held out": (lambda m: m.update(held_out=[4]), "with units"),
    "asked": (lambda m: m.pop("asked"), "malformed"),
    "provenance": (lambda m: m.update(provenance=[]), "malformed"),
    "metadata": (lambda m: m["metadata"].popitem(), "other metadata"),
    "statistics": (lambda m: m["sites"]["in.0"]["statistics"].update(sum=""), "statistics of 0"),
    "no shard": (lambda m: m["shards"][0].update(unit=9), "with units"),
    "other file": (lambda m: m["shards"][0]["files"].pop("tokens/input_ids/c.0.0"), "one an array"),
    "count": (lambda m: m["shards"][0]["trainable_per_chunk"].pop(), "chunk counts"),
}


@pytest.mark.parametrize(("change", "message"), MANIFESTS.values(), ids=MANIFESTS.keys())
def test_a_manifest_that_contradicts_itself_is_refused(
    root: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    forge(root / "MANIFEST.json", change)
    with pytest.raises(UserError, match=message):
        open_store(root)
    assert any(message in str(fault) for fault in verify(root))


def test_a_manifest_that_is_no_json_or_missing_is_reported(root: Path) -> None:
    (root / "MANIFEST.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="altered"):
        open_store(root)
    (root / "MANIFEST.json").unlink()
    (fault,) = verify(root)
    assert f"{root / 'MANIFEST.json'} missing" in str(fault)


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("SETTINGS.json", {"chunk_sequences": 0}, "expected positive whole numbers"),
        ("SETTINGS.json", {"widths": {"../x": 3}}, "with site '../x'"),
        ("commits/tokens.json", {"num_sequences": 2**62}, "expected two a unit"),
    ],
)
def test_an_unsealed_store_that_contradicts_itself_is_refused(
    root: Path, file: str, change: dict[str, Any], said: str
) -> None:
    (root / "MANIFEST.json").unlink()
    forge(root / file, lambda value: value.update(change))
    assert said in str(verify(root)[0])
    with pytest.raises(UserError, match="; expected "):
        open_store(root, unsealed=True)


def test_a_file_is_recorded_with_the_crc32_of_zlib(root: Path) -> None:
    for shard in open_store(root).manifest.shards:
        for file, record in shard.files.items():
            assert record.crc32 == f"{zlib.crc32((root / file).read_bytes()):08x}"
