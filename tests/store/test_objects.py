"""Stores in an object store: the same as on a disk, on a real S3 server on this machine."""

import contextlib
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sae_dist.common.errors import UserError
from sae_dist.store import CacheConfig, StoreWriter, audit, open_store, verify
from sae_dist.store.files import files_at
from sae_dist.store.verify import Repair
from tests.harvest.tiny import contents
from tests.s3 import credentials, endpoint, needs_server  # noqa: F401
from tests.store.conftest import POSITIONS, SEQUENCES, WIDTHS, Data, config, everything

obstore = pytest.importorskip("obstore")
pytestmark = [pytest.mark.slow, needs_server, pytest.mark.usefixtures("credentials")]


@pytest.fixture
def create_at(request: pytest.FixtureRequest) -> Callable[..., StoreWriter]:
    url = f"s3://bucket/{abs(hash(request.node.name))}"

    def create(name: str = "store", **changes: object) -> StoreWriter:
        about = {"lm": "none"}
        settings = config(**changes)
        return StoreWriter.create(f"{url}/{name}", WIDTHS, POSITIONS, settings, about, SEQUENCES)

    return create


def objects(url: str) -> dict[str, bytes]:
    store = obstore.store.from_url(url)
    names = [entry["path"] for page in obstore.list(store) for entry in page]
    return {name: bytes(obstore.get(store, name).bytes()) for name in names}


def flip(url: str, name: str, byte: int) -> None:
    files = files_at(url)
    data = bytearray(files.read(name))
    data[byte] ^= 1
    files.write(name, bytes(data))


def test_a_store_is_the_same_as_on_a_disk(
    data: Data, create: Callable[..., StoreWriter], create_at: Callable[..., StoreWriter]
) -> None:
    data.fill(create())
    data.fill(create_at())
    assert objects(create_at().path) == contents(create().path)
    assert verify(create_at().path, full=True) == []
    store, local = open_store(create_at().path), open_store(create().path)
    assert store.hash == local.hash
    for site in WIDTHS:
        assert everything(store, site).nan_to_num().equal(everything(local, site).nan_to_num())


def test_of_racing_writers_one_wins_each_unit(
    data: Data, create: Callable[..., StoreWriter], create_at: Callable[..., StoreWriter]
) -> None:
    data.fill(create())
    data.put_tokens(create_at())
    won: list[int] = []

    def race(writer: StoreWriter) -> None:
        won.extend(u for u in range(4) if writer.write_unit(u, data.shard(writer, u)))

    threads = [threading.Thread(target=race, args=(create_at(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [0, 1, 2, 3]
    create_at().seal()
    assert objects(create_at().path) == contents(create().path)


class KilledError(BaseException):
    """Stands for SIGKILL."""


@pytest.mark.parametrize("step", ["create", "write_parts", "rename", "write"])
def test_a_killed_writer_is_gone_on_with(
    data: Data,
    create: Callable[..., StoreWriter],
    create_at: Callable[..., StoreWriter],
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    """At the first, third, … of its requests of a kind; what it left goes at the seal."""
    data.fill(create())
    for deadline in (0, 2, 5):
        writer, left = create_at(), [deadline]
        real = getattr(type(writer.files), step)

        def mortal(*given: Any, left: list[int] = left, real: Any = real) -> Any:
            left[0] -= 1
            if left[0] == -1:
                raise KilledError
            return real(*given)

        with monkeypatch.context() as patch:
            patch.setattr(type(writer.files), step, mortal)
            with contextlib.suppress(KilledError):
                data.fill(writer)
    data.fill(create_at())
    assert objects(create_at().path) == contents(create().path)


def test_an_answer_that_is_lost_does_not_lose_the_unit(
    data: Data, create_at: Callable[..., StoreWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library asks again, and is told that there is a commit: its own."""
    writer = create_at()
    data.put_tokens(writer)
    real = writer.files.create
    monkeypatch.setattr(writer.files, "create", lambda *given: real(*given) and False)
    assert writer.write_unit(0, data.shard(writer, 0))
    assert audit(writer.path, full=True, workers=1).leftovers == []


def test_one_that_comes_after_the_seal_changes_nothing(
    data: Data, create_at: Callable[..., StoreWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commits are gone, so that a conditional put succeeds; the manifest decides."""
    late = create_at()
    data.put_tokens(late)
    other = {site: x + 1 for site, x in data.shard(late, 2).items()}
    real = late.files.create

    def too_late(name: str, content: bytes) -> bool:
        data.fill(create_at())
        return real(name, content)

    monkeypatch.setattr(late.files, "create", too_late)
    assert not late.write_unit(2, other)
    assert verify(late.path, full=True) == []
    assert not [name for name in objects(late.path) if "commits" in name or "tmp" in name]


def test_damage_is_named_at_reading_and_by_verify_and_mended(
    data: Data, create_at: Callable[..., StoreWriter]
) -> None:
    writer = create_at()
    data.fill(writer)
    url, before = writer.path, objects(writer.path)
    flip(url, "rows/activations/in.0/c.2.0", 9)
    files_at(url).remove("sequences/activations/in.0/c.1.0.0")
    flip(url, "SUMS.bin", 9)
    with pytest.raises(UserError, match=r"bucket/.*/SUMS\.bin with other checksums"):
        open_store(url)
    Repair(audit(url, full=False, workers=2)).mend_records()
    store = open_store(url)
    with pytest.raises(UserError, match=r"s3://bucket/.*/c\.2\.0 with chunk 2 damaged \(crc32c"):
        store.read_rows("in.0", 2)
    repair = Repair(audit(url, full=True, workers=2))
    assert repair.bad_units == [1, 2]
    for unit in repair.bad_units:
        repair.rewrite(unit, data.shard(writer, unit), *repair.read_tokens(unit))
    assert repair.finish() and objects(url) == before


def test_a_cache_nearby_spares_the_requests(
    data: Data,
    create_at: Callable[..., StoreWriter],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data.fill(create_at())
    requests, real = [], obstore.get_range
    monkeypatch.setattr(obstore, "get_range", lambda *a, **k: requests.append(a) or real(*a, **k))
    found, counts = [], []
    for _ in range(2):
        store = open_store(create_at().path, cache=CacheConfig(folder=str(tmp_path)))
        found.append(everything(store, "in.0").nan_to_num())
        counts.append(len(requests))
    assert found[0].equal(found[1]) and counts[0] == counts[1] > 0


def test_what_is_wrong_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no store at s3://bucket/nothing"):
        open_store("s3://bucket/nothing")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"no answer for s3://bucket/x/MANIFEST\.json \([^\n]*$"):
        open_store("s3://bucket/x")


def test_without_obstore_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sae_dist.store.objects", None)
    with pytest.raises(UserError, match=r"pip install 'sae-dist\[objects\]'"):
        open_store("s3://bucket/x")
