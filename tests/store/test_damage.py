import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_dist.common.errors import UserError
from sae_dist.store import StoreWriter, open_store, verify
from sae_dist.store.verify import Repair, audit
from tests.harvest.tiny import contents
from tests.store.conftest import WIDTHS, everything
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
def test_every_file_of_another_size_is_named(root: Path, kind: str) -> None:
    for path in sorted(root.rglob("c.*")):
        whole = path.read_bytes()
        damage_size(path, kind)
        found = audit(root, full=False, workers=1)
        assert [fault.path for fault in found.faults] == [path]
        assert found.bad_units == [int(path.name.split(".")[1])]
        path.write_bytes(whole)
    assert verify(root) == []


def test_two_swapped_shards_are_found_by_verify_and_at_reading(root: Path) -> None:
    first, second = (root / "rows/activations/in.0" / name for name in ("c.0.0", "c.2.0"))
    swap(first, second)
    assert verify(root) == []
    assert [fault.path for fault in verify(root, full=True)] == [first, second]
    store = open_store(root)
    store.read_rows("out.0", 0)
    for chunk, unit in ((0, 0), (1, 0), (2, 2), (3, 2)):
        with pytest.raises(UserError, match=rf"c\.{unit}\.0 with chunk {chunk} damaged"):
            store.read_rows("in.0", chunk)


def test_a_flipped_bit_is_named_by_file_and_chunk(root: Path) -> None:
    flip(root / "rows/activations/in.0/c.2.0", 8 * 160)  # the second of chunks of 148 bytes
    store = open_store(root)
    store.read_rows("in.0", 2)
    with pytest.raises(UserError, match=r"rows/activations/in\.0/c\.2\.0 with chunk 3 damaged"):
        store.read_rows("in.0", 3)
    assert "with chunk 1 of 2 altered (crc32c " in str(verify(root, full=True)[0])


def test_a_file_that_is_missing_is_told_when_it_is_read(root: Path) -> None:
    (root / "rows/activations/in.0/c.2.0").unlink()
    store = open_store(root)
    store.read_rows("in.0", 0)
    with pytest.raises(UserError, match=r"c\.2\.0 with chunk 2 damaged \(.*No such file"):
        store.read_rows("in.0", 2)


def test_a_damaged_index_is_found_by_verify_and_does_not_mislead_a_reader(root: Path) -> None:
    path = root / "sequences/input_ids/c.0.0"
    expected = open_store(root).read_tokens(range(6))[0].tolist()
    flip(path, 8 * (path.stat().st_size - 20))
    assert open_store(root).read_tokens(range(6))[0].tolist() == expected
    assert [fault.path for fault in verify(root, full=True)] == [path]


def test_leftovers_of_killed_writers_are_told_and_do_no_harm(root: Path) -> None:
    left = [root / "rows/activations/in.0" / n for n in ("c.0.0.abc.partial", ".c.0.0.ab.tmp")]
    for path in left:
        path.write_bytes(b"half")
    found = audit(root, full=True, workers=1)
    assert found.faults == [] and sorted(found.leftovers) == sorted(left)
    open_store(root)


METADATA = {
    "spelt otherwise": None,
    "huge": b'{"shape": [4611686018427387904]}',
    "too long": b"[" * (2**20 + 1),
    "not JSON": b"\xff\x00",
    "empty": b"",
}


@pytest.mark.parametrize("content", METADATA.values(), ids=METADATA.keys())
def test_metadata_other_than_the_writers_is_told_and_misleads_no_reader(
    root: Path, content: bytes | None
) -> None:
    whole = everything(open_store(root), "in.0")
    path = root / "rows/activations/in.0/zarr.json"
    written = path.read_bytes()
    path.write_bytes(json.dumps(json.loads(written)).encode() if content is None else content)
    assert [(fault.path, fault.found) for fault in verify(root)] == [(path, "altered")]
    assert everything(open_store(root), "in.0").nan_to_num().equal(whole.nan_to_num())
    path.unlink()
    assert [(fault.path, fault.found) for fault in verify(root)] == [(path, "missing")]
    Repair(audit(root, full=False, workers=1)).mend_records()
    assert path.read_bytes() == written and verify(root) == []


def settings(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda manifest: manifest["settings"].update(changes)


MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "format": (lambda m: m.update(format=3), "in format 3; expected format 4"),
    "no dtype": (lambda m: m["settings"].pop("dtype"), "malformed"),
    "unknown dtype": (settings(dtype="int4"), "malformed"),
    "unknown key": (lambda m: m.update(extra=1), "malformed"),
    "zero chunk": (settings(chunk_rows=0), "malformed"),
    "no chunk": (lambda m: m["settings"].pop("chunk_sequences"), "malformed"),
    "uneven shards": (settings(chunk_sequences=4), "whole chunks"),
    "huge shards": (settings(shard_sequences=3 * 2**44), "at most"),
    "beyond all numbers": (settings(shard_sequences=3 * 2**60), "malformed"),
    "path outside": (lambda m: m["settings"]["widths"].update({"../x": 3}), "malformed"),
    "huge": (lambda m: m.update(num_sequences=2**40), "rows of 4 units"),
    "a unit less": (lambda m: m["rows"].pop(), "rows of 3 units"),
    "too many rows": (lambda m: m["rows"].__setitem__(0, 25), "25 rows in a unit"),
    "negative rows": (lambda m: m["rows"].__setitem__(0, -1), "malformed"),
    "other rows": (lambda m: m["rows"].__setitem__(0, 1), "with other checksums"),
    "provenance": (settings(provenance=[]), "malformed"),
    "statistics": (lambda m: m["statistics"]["in.0"].update(sum=""), "statistics of {'in.0': 0"),
    "no statistics": (lambda m: m["statistics"].pop("in.0"), "statistics of {'out.0': 3}"),
    "sums": (lambda m: m.update(sums="0" * 64), "with other checksums"),
}


@pytest.mark.parametrize(("change", "message"), MANIFESTS.values(), ids=MANIFESTS.keys())
def test_a_manifest_that_contradicts_itself_is_refused(
    root: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    for name in ("MANIFEST.json", "copy/MANIFEST.json"):
        forge(root / name, change)
    with pytest.raises(UserError) as error:
        open_store(root)
    assert message in str(error.value)
    assert verify(root)


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "missing"])
@pytest.mark.parametrize("name", ["MANIFEST.json", "SUMS.bin"])
def test_a_damaged_seal_is_refused_and_mended_from_its_copy(
    root: Path, name: str, harm: str
) -> None:
    before = contents(root)
    for place in (name, f"copy/{name}"):
        path = root / place
        if harm == "flip":
            flip(path, 99)
        elif harm == "missing":
            path.unlink()
        else:
            os.truncate(path, 0 if harm == "empty" else 9)
        if place == name:
            with pytest.raises(UserError, match=r"no store|altered|other checksums|missing"):
                open_store(root)
        assert [fault.path for fault in verify(root)] == [path]
        Repair(audit(root, full=False, workers=1)).mend_records()
        assert contents(root) == before


def test_a_seal_lost_with_its_copy_is_beyond_repair(root: Path) -> None:
    for name in ("SUMS.bin", "copy/SUMS.bin"):
        (root / name).unlink()
    with pytest.raises(UserError, match="and their copies; expected one whole"):
        Repair(audit(root, full=True, workers=1))


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("SETTINGS.json", {"chunk_rows": 0}, "malformed"),
        ("SETTINGS.json", {"widths": {"../x": 3}}, "malformed"),
        ("commits/tokens/end.json", {"num_sequences": 2**62}, "malformed"),
        ("commits/units/00001.json", {"unit": 0}, "to be of unit 0"),
        ("commits/units/00001.json", {"rows": -1}, "malformed"),
    ],
)
def test_an_unsealed_store_that_contradicts_itself_is_refused(
    data: Any, create: Callable[..., StoreWriter], file: str, change: dict[str, Any], said: str
) -> None:
    root = create().path
    data.put_tokens(create())
    for unit in range(2):
        create().write_unit(unit, data.shard(create(), unit))
    forge(root / file, lambda value: value.update(change))
    (fault,) = verify(root)
    assert fault.path == root / file and said in str(fault)
    with pytest.raises(UserError, match="; expected "):
        open_store(root, unsealed=True)


def test_bad_units_of_an_unsealed_store_are_withdrawn_and_written_again(
    data: Any, create: Callable[..., StoreWriter]
) -> None:
    data.fill(create("undisturbed"))
    writer = create()
    data.put_tokens(writer)
    for unit in range(3):
        writer.write_unit(unit, data.shard(writer, unit))
    flip(writer.path / "rows/activations/in.0/c.0.0", 9)
    flip(writer.path / "commits/units/00002.json", 99)
    flip(writer.path / "commits/tokens/00003", 99)
    Repair(audit(writer.path, full=True, workers=1)).withdraw()
    assert verify(writer.path, full=True) == [] and writer.committed() == {1}
    writer.put_tokens(3, *data.tokens(3), {"next": 4})
    data.fill(create())
    assert contents(writer.path) == contents(create("undisturbed").path)


def test_other_bytes_than_before_are_vouched_for_anew(
    data: Any, create: Callable[..., StoreWriter]
) -> None:
    """As another device may give them: with the sums and statistics of a store so harvested."""
    data.fill(create())
    root, before = create().path, open_store(create().path)
    data.acts = {site: (x_NSD * 1.01).round(decimals=2) for site, x_NSD in data.acts.items()}
    for file in ("rows/activations/in.0/c.2.0", "sequences/activations/out.0/c.1.0.0"):
        (root / file).unlink()
    repair = Repair(audit(root, full=True, workers=1))
    writer = create()
    for unit in repair.bad_units:
        repair.rewrite(unit, data.shard(writer, unit), *repair.read_tokens(unit))
    assert not repair.finish()
    assert verify(root, full=True) == []
    after = open_store(root)
    assert after.hash != before.hash and after.manifest.rows == before.manifest.rows
    all_acts = {site: everything(after, site).nan_to_num() for site in WIDTHS}
    is_kept = torch.from_numpy(data.trainable[12:18])
    new_rows = data.acts["in.0"][12:18].bfloat16()[is_kept]
    assert torch.equal(all_acts["in.0"][12:18][is_kept], new_rows)
    other, data.acts = create("other"), all_acts
    data.fill(other)
    for site in WIDTHS:
        found, expected = after.statistics(site), open_store(other.path).statistics(site)
        assert np.array_equal(found.sum, expected.sum)
        assert (found.count, found.sum_square) == (expected.count, expected.sum_square)
