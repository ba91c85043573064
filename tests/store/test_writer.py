import itertools
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from sae_dist.common import files
from sae_dist.common.disk import check_disk
from sae_dist.common.errors import UserError
from sae_dist.store import StoreConfig, StoreWriter, audit, open_store, verify
from sae_dist.store import files as store_files
from sae_dist.store.records import dump
from sae_dist.store.unit import UnitFiles
from tests.store.damage import flip


class KilledError(BaseException):
    """Stands for SIGKILL: nothing of the project may catch it."""


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_a_writer_killed_at_any_write_goes_on_to_the_same_store(
    data: Any, create: Callable[..., StoreWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    data.fill(create("undisturbed"))
    expected = contents(create("undisturbed").path)
    real = {"write": files.write_new, "replace": files.os.replace, "link": files.os.link}
    num_kills = 0
    for deadline in itertools.count():
        left = [deadline]

        def mortal(name: str, left: list[int] = left) -> Callable[..., Any]:
            def call(*arguments: Any) -> Any:
                left[0] -= 1
                if left[0] == -1:
                    raise KilledError
                return real[name](*arguments)

            return call

        name = f"killed-{deadline}"
        with monkeypatch.context() as patch:
            patch.setattr(files, "write_new", mortal("write"))
            patch.setattr(store_files, "write_new", mortal("write"))
            patch.setattr(files.os, "replace", mortal("replace"))
            patch.setattr(files.os, "link", mortal("link"))
            try:
                data.fill(create(name))
            except KilledError:
                num_kills += 1
        data.fill(create(name))
        found = contents(create(name).path)
        assert {k: v for k, v in found.items() if not k.endswith(".tmp")} == expected
        assert not [k for k in found if k.endswith(".tmp") and "/.c." in k]
        if left[0] >= 0:
            break
    assert num_kills > 40


def test_creating_again_with_other_settings_names_the_difference(
    create: Callable[..., StoreWriter],
) -> None:
    create()
    create()
    with pytest.raises(UserError, match=r"held_out=0\.25.*held_out=0\.5"):
        create(held_out=0.5)


def test_a_folder_that_holds_something_else_is_left_alone(
    create: Callable[..., StoreWriter], tmp_path: Path
) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"thesis\.tex"):
        create()
    with pytest.raises(UserError, match=r"SETTINGS\.json"):
        StoreWriter.open(tmp_path / "store")
    assert [p.name for p in (tmp_path / "store").iterdir()] == ["thesis.tex"]


def test_tokens_come_first_and_are_kept(data: Any, create: Callable[..., StoreWriter]) -> None:
    writer = create()
    with pytest.raises(UserError, match="tokens first"):
        writer.read_tokens(0)
    with pytest.raises(UserError, match="expected them first"):
        writer.layout  # noqa: B018
    assert writer.missing() == [] and writer.tokens_written() == (0, None)
    writer.put_tokens(0, *data.tokens(0), {"next": 1})
    writer.put_tokens(0, *data.tokens(1), {"next": 2})
    assert create().tokens_written() == (1, {"next": 1}) and create().num_units is None
    assert (create().missing(), create().num_units) == ([0], None)
    data.put_tokens(create())
    writer.end_tokens(9, {"corpus": "letters"})
    ids, trainable = StoreWriter.open(writer.path).read_tokens(3)
    assert np.array_equal(ids, data.ids[18:]) and np.array_equal(trainable, data.trainable[18:])
    assert (writer.layout.num_sequences, writer.missing()) == (23, [0, 1, 2, 3])


def test_units_are_written_while_the_end_of_the_text_is_not_known(
    data: Any, create: Callable[..., StoreWriter]
) -> None:
    data.fill(create("all at once"))
    writer = create("one by one")
    for unit in range(4):
        writer.put_tokens(unit, *data.tokens(unit), None)
        assert writer.missing() == [unit] and writer.write_unit(unit, data.shard(writer, unit))
    writer.end_tokens(23, {"corpus": "numbers"})
    writer.seal()
    assert contents(writer.path) == contents(create("all at once").path)


def test_a_text_that_ends_early_shrinks_the_store(
    data: Any, create: Callable[..., StoreWriter]
) -> None:
    writer = create()
    for unit in range(2):
        writer.put_tokens(unit, *data.tokens(unit), None)
    writer.put_tokens(2, data.ids[12:13], data.trainable[12:13], None)
    writer.end_tokens(13, {})
    for unit in writer.missing():
        arrays = data.shard(writer, unit)
        writer.write_unit(unit, {s: x[: 1 if unit == 2 else 6] for s, x in arrays.items()})
    writer.seal()
    store = open_store(writer.path)
    assert (store.layout.num_units, store.held_out) == (3, [range(6, 12)])
    assert verify(writer.path, full=True) == []


def test_tokens_of_another_length_or_type_are_refused(
    data: Any, create: Callable[..., StoreWriter]
) -> None:
    with pytest.raises(UserError, match="input_ids"):
        create().put_tokens(0, data.ids[:, :3], data.trainable[:, :3], None)
    with pytest.raises(UserError, match="int64"):
        create().put_tokens(0, data.ids.astype(np.int64), data.trainable, None)
    with pytest.raises(UserError, match="no sequence"):
        create().end_tokens(0, {})


def test_altered_tokens_are_refused(data: Any, create: Callable[..., StoreWriter]) -> None:
    writer = create()
    data.put_tokens(writer)
    flip(writer.path / "commits/tokens/00002", 99)
    with pytest.raises(UserError, match="00002 altered"):
        writer.write_unit(2, data.shard(writer, 2))
    assert [fault.path.name for fault in verify(writer.path)] == ["00002"]


def test_no_temporary_file_is_left_by_data_that_fail(tmp_path: Path) -> None:
    def parts() -> Iterator[bytes]:
        yield b"half"
        raise MemoryError

    with pytest.raises(MemoryError):
        files.write_all([(tmp_path / "a", [b"whole"]), (tmp_path / "b", parts())])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_asked", [True, False])
def test_a_file_is_whole_whether_or_not_the_disk_is_asked_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_asked: bool
) -> None:
    """Of more than the 16 MiB after which it is asked; not every system can ask."""
    if is_asked:
        asked = Mock(wraps=os.posix_fadvise)
        monkeypatch.setattr(os, "posix_fadvise", asked)
    else:
        monkeypatch.delattr(os, "posix_fadvise")
    parts = [os.urandom(size) for size in (3, 17 << 20, 9 << 20, 5, 9 << 20, 1)]
    files.write_all([(tmp_path / "a", parts)])
    assert (tmp_path / "a").read_bytes() == b"".join(parts)
    if is_asked:
        sizes = [call.args[1:3] for call in asked.call_args_list]
        assert sizes == [(0, (17 << 20) + 3), ((17 << 20) + 3, (18 << 20) + 5)]


def test_a_unit_is_committed_once(data: Any, create: Callable[..., StoreWriter]) -> None:
    writer = create()
    data.put_tokens(writer)
    assert writer.write_unit(2, data.shard(writer, 2))
    assert not create().write_unit(2, data.shard(writer, 2))
    assert writer.missing() == [0, 1, 3]


def test_of_racing_writers_one_wins_each_unit_and_the_bytes_are_those_of_one(
    data: Any, create: Callable[..., StoreWriter]
) -> None:
    data.fill(create("alone"))
    data.put_tokens(create())
    won: list[int] = []

    def race(writer: StoreWriter) -> None:
        won.extend(u for u in range(4) if writer.write_unit(u, data.shard(writer, u)))

    threads = [threading.Thread(target=race, args=(create(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    data.fill(create())
    assert sorted(won) == [0, 1, 2, 3]
    assert contents(create().path) == contents(create("alone").path)


def test_of_two_writers_that_disagree_the_first_ones_bytes_stay(
    data: Any, create: Callable[..., StoreWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    data.fill(create("alone"))
    writer, late = create(), create()
    data.put_tokens(writer)
    other = {site: x + np.uint16(1) for site, x in data.shard(writer, 0).items()}
    real = late.files.create

    def beaten(name: str, content: bytes) -> bool:
        assert writer.write_unit(0, data.shard(writer, 0))
        return real(name, content)

    monkeypatch.setattr(late.files, "create", beaten)
    assert not late.write_unit(0, other)
    data.fill(writer)
    assert contents(writer.path) == contents(create("alone").path)


def test_a_unit_is_there_once_it_is_committed_though_its_files_have_no_names_yet(
    data: Any, create: Callable[..., StoreWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    data.fill(create("undisturbed"))
    writer = create()
    data.put_tokens(writer)
    with monkeypatch.context() as patch:
        patch.setattr(UnitFiles, "settle", Mock(side_effect=KilledError))
        with pytest.raises(KilledError):
            writer.write_unit(0, data.shard(writer, 0))
    assert len(list(writer.path.rglob("*.tmp"))) == 5
    found = audit(writer.path, full=True, workers=1)
    assert (found.faults, found.leftovers, found.num_committed) == ([], [], 1)
    store = open_store(writer.path, unsealed=True)
    assert len(store.read_rows("in.0", 1)) == store.chunk_rows[1]
    data.fill(create())
    assert contents(writer.path) == contents(create("undisturbed").path)


def test_one_that_comes_after_the_seal_changes_nothing(
    data: Any, create: Callable[..., StoreWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    late = create()
    data.put_tokens(late)
    real = late.files.create

    def too_late(name: str, content: bytes) -> bool:
        data.fill(create())
        return real(name, content)

    monkeypatch.setattr(late.files, "create", too_late)
    assert not late.write_unit(3, data.shard(late, 3))
    assert not late.write_unit(2, data.shard(late, 2))
    before = contents(late.path)
    late.seal()
    assert contents(late.path) == before and verify(late.path, full=True) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_values_are_refused_at_trainable_tokens_only(
    data: Any, create: Callable[..., StoreWriter], value: float
) -> None:
    writer = create()
    data.put_tokens(writer)
    data.acts["out.0"][9, 1, 2] = value  # token 37
    data.acts["out.0"][10, 0, 0] = value  # token 40, not trainable
    with pytest.raises(UserError, match=r"unit 1, site out\.0.*sequence 9"):
        writer.write_unit(1, data.shard(writer, 1))
    assert not [p for p in writer.path.glob("*/*/**/*") if p.is_file() and "commits" not in str(p)]
    data.acts["out.0"][9, 1, 2] = 0.0
    assert writer.write_unit(1, data.shard(writer, 1))


def test_a_shard_of_another_shape_or_without_a_site_is_refused(
    data: Any, create: Callable[..., StoreWriter]
) -> None:
    writer = create()
    data.put_tokens(writer)
    with pytest.raises(UserError, match="unit 3"):
        writer.write_unit(3, data.shard(writer, 2))
    with pytest.raises(UserError, match="every site"):
        writer.write_unit(3, {"in.0": data.shard(writer, 3)["in.0"]})
    assert not list(writer.path.rglob("*.tmp"))


def test_sealing_needs_every_shard_and_changes_nothing_the_second_time(
    data: Any, create: Callable[..., StoreWriter]
) -> None:
    writer = create()
    data.put_tokens(writer)
    writer.write_unit(0, data.shard(writer, 0))
    with pytest.raises(UserError, match="found 3 of 4 shards missing"):
        writer.seal()
    for unit in writer.missing():
        writer.write_unit(unit, data.shard(writer, unit))
    manifest = writer.seal()
    before = contents(writer.path)
    assert writer.sealed and (create().missing(), create().bytes_needed()) == ([], 0)
    assert dump(writer.seal()) == dump(manifest) == dump(open_store(writer.path).manifest)
    assert contents(writer.path) == before and verify(writer.path, full=True) == []


def test_the_bytes_needed_are_exact_where_all_tokens_are_trainable(
    data: Any, create: Callable[..., StoreWriter]
) -> None:
    data.trainable[:] = True
    writer = create()
    needed = writer.bytes_needed()
    data.put_tokens(writer)
    assert writer.bytes_needed() == needed
    data.fill(writer)
    assert needed == sum(path.stat().st_size for path in writer.path.rglob("c.*"))


def test_a_full_disk_is_seen_before_it_is_full(tmp_path: Path) -> None:
    check_disk(tmp_path / "not" / "there", 1)
    with pytest.raises(UserError, match="free at"):
        check_disk(tmp_path / "not" / "there", 2**80)


@pytest.mark.parametrize("site", ["../x", "a/b", "", ".hidden", "a\0b"])
def test_a_site_cannot_lead_out_of_the_store(tmp_path: Path, site: str) -> None:
    from sae_dist.store import StoreConfig

    with pytest.raises(UserError, match="site"):
        StoreWriter.create(tmp_path / "store", {site: 3}, 4, StoreConfig(), {}, 5)


def test_a_store_that_is_given_up_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    config = StoreConfig()
    StoreWriter.create(tmp_path / "store", {"x": 4}, 8, config, {}, 9).abandon()
    assert not (tmp_path / "store").exists()
    writer = StoreWriter.create(tmp_path / "store", {"x": 4}, 8, config, {}, 9)
    (tmp_path / "store" / "rows" / "notes.txt").write_text("mine")
    writer.abandon()
    left = [str(p.relative_to(tmp_path)) for p in sorted((tmp_path / "store").rglob("*"))]
    assert left == ["store/rows", "store/rows/notes.txt"]
