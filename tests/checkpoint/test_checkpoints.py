from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor

from sae_dist.checkpoint import CheckpointConfig, Checkpoints
from sae_dist.common.errors import UserError
from sae_dist.parallel import World
from tests.processes import alone, run_on


def tensors(value: float) -> dict[str, Tensor]:
    return {"rung/W": torch.full((6, 3), value), "rung/step": torch.tensor(value).double()}


def opened(folder: Path, keep: int = 2) -> Checkpoints:
    alone()
    return Checkpoints(folder, CheckpointConfig(keep=keep))


def save(folder: Path, *steps: int, keep: int = 2) -> None:
    for step in steps:
        checkpoints = opened(folder, keep)
        checkpoints.save(step, tensors(step), {"step": step})
        checkpoints.finish()


def loaded(folder: Path) -> float:
    """The value that every tensor of the newest checkpoint has."""
    checkpoints = opened(folder)
    path = checkpoints.latest()
    assert path is not None
    found = tensors(-1.0)
    checkpoints.open(path).load(found)
    values = {float(value) for tensor in found.values() for value in tensor.flatten()}
    assert values == {float(checkpoints.open(path).about["step"])}
    return values.pop()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "lock")


def test_what_was_saved_is_loaded_and_the_newest_are_kept(tmp_path: Path) -> None:
    assert opened(tmp_path).latest() is None
    save(tmp_path, 9, 10, 100, 101)
    assert names(tmp_path) == ["latest", "step-100", "step-101"]
    assert (tmp_path / "latest").read_text() == "step-101"
    assert loaded(tmp_path) == 101
    save(tmp_path, 102, keep=3)
    assert names(tmp_path) == ["latest", "step-100", "step-101", "step-102"]


def test_every_so_many_steps_one_is_kept_for_ever(tmp_path: Path) -> None:
    alone()
    with Checkpoints(tmp_path, CheckpointConfig(keep_every=4)) as checkpoints:
        for step in range(1, 12):
            checkpoints.save(step, tensors(step), {"step": step})
    assert names(tmp_path) == ["latest", "step-10", "step-11", "step-4", "step-8"]


def test_what_latest_names_is_never_removed(tmp_path: Path) -> None:
    save(tmp_path, 20, 30)
    save(tmp_path, 5)
    assert names(tmp_path) == ["latest", "step-20", "step-30", "step-5"]
    assert loaded(tmp_path) == 5


def test_links_are_not_followed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder, elsewhere = tmp_path / "checkpoints", tmp_path / "elsewhere"
    save(elsewhere, 7, 8)
    save(folder, 1, 2)
    (folder / "step-0").symlink_to(elsewhere / "step-7")
    (folder / "step-9").symlink_to(elsewhere / "step-8")
    (folder / "step-9.tmp-ab").symlink_to(elsewhere)
    (folder / "latest").unlink()
    (folder / "latest").symlink_to(elsewhere / "latest")
    assert loaded(folder) == 2
    assert "latest names no complete checkpoint; using step-2" in capsys.readouterr().err
    save(folder, 3)
    assert names(folder) == ["latest", "step-0", "step-2", "step-3", "step-9", "step-9.tmp-ab"]
    assert names(elsewhere) == ["latest", "step-7", "step-8"] and loaded(elsewhere) == 8


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    with opened(tmp_path) as checkpoints:
        checkpoints.save(2, tensors(2.0), {"step": 2, "again": True})
    assert opened(tmp_path).open(tmp_path / "step-2").about == {"step": 2, "again": True}
    assert loaded(tmp_path) == 2


def save_and_load(world: World, folder: Path) -> list[float]:
    checkpoints = Checkpoints(folder, CheckpointConfig())
    for step in (1, 2, 3):
        checkpoints.save(step, tensors(step), {"step": step})
    checkpoints.finish()
    path = checkpoints.latest()
    assert path is not None and path.name == "step-3"
    found = tensors(-1.0)
    checkpoints.open(path).load(found)
    return [float(tensor.mean()) for tensor in found.values()]


def test_two_processes_save_one_checkpoint(tmp_path: Path) -> None:
    assert run_on(2, save_and_load, tmp_path) == [[3.0, 3.0]] * 2
    assert names(tmp_path) == ["latest", "step-2", "step-3"]
    assert loaded(tmp_path) == 3


def unseen(path: Path) -> bytes:
    raise FileNotFoundError(path)


def newest_on(world: World, folder: Path) -> tuple[str, int]:
    checkpoints = Checkpoints(folder, CheckpointConfig())
    with pytest.MonkeyPatch.context() as patch:
        if world.rank == 1:
            patch.setattr(Path, "iterdir", lambda path: iter(()))
            patch.setattr(Path, "read_bytes", unseen)
        path = checkpoints.latest()
        assert path is not None
        return path.name, checkpoints.open(path).about["step"]


def test_a_process_that_does_not_see_a_checkpoint_yet_goes_on_from_it(tmp_path: Path) -> None:
    run_on(2, save_and_load, tmp_path)
    assert run_on(2, newest_on, tmp_path) == [("step-3", 3)] * 2


def refused_on(world: World, folder: Path) -> str:
    checkpoints = Checkpoints(folder, CheckpointConfig())
    with pytest.raises(UserError) as refusal:
        checkpoints.open(folder / "step-3").load(tensors(0.0))
    return str(refusal.value)


def test_a_damaged_file_is_refused_by_every_process(tmp_path: Path) -> None:
    run_on(2, save_and_load, tmp_path)
    (tmp_path / "step-3" / ".metadata").unlink()
    refusals = run_on(2, refused_on, tmp_path)
    assert refusals[0] == refusals[1] and f"{tmp_path}/step-3/.metadata is missing" in refusals[0]


@pytest.mark.parametrize(
    "pointer", [b"", b"step-7", b"../elsewhere", b"step-2/../step-1", b"step-3.tmp-ab", b"\xff\0"]
)
def test_a_pointer_to_nothing_complete_is_passed_over_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture, pointer: bytes
) -> None:
    folder = tmp_path / "checkpoints"
    save(folder, 1, 2)
    save(tmp_path / "elsewhere", 5)
    (folder / "step-3.tmp-ab").mkdir()
    (folder / "latest").write_bytes(pointer)
    assert loaded(folder) == 2
    assert "names no complete checkpoint; using step-2" in capsys.readouterr().err
    (folder / "latest").unlink()
    assert loaded(folder) == 2


def test_what_is_not_complete_is_never_read_and_goes_at_the_next_save(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    save(tmp_path, 1)
    (tmp_path / "step-1").rename(tmp_path / "step-9.tmp-0123")
    (tmp_path / "latest").write_text("step-9.tmp-0123")
    (tmp_path / "step-8").mkdir()
    (tmp_path / "notes").mkdir()
    assert opened(tmp_path).latest() is None
    warning = f"warning: {tmp_path}/step-9.tmp-0123 did not finish; it is not read"
    assert warning in capsys.readouterr().err
    save(tmp_path, 2)
    assert names(tmp_path) == ["latest", "notes", "step-2", "step-8"]
    assert loaded(tmp_path) == 2


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp"])
def test_a_damaged_file_is_refused_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], Any], name: str
) -> None:
    save(tmp_path, 1, 2)
    damage(tmp_path / "step-2" / name)
    monkeypatch.setattr(dcp, "load", None)  # it would unpickle
    with pytest.raises(UserError, match=f"step-2/{name} (is missing|has).*; remove that"):
        loaded(tmp_path)


def test_without_the_damaged_checkpoint_an_earlier_one_is_loaded(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    for path in (tmp_path / "step-2").iterdir():
        path.unlink()
    (tmp_path / "step-2").rmdir()
    assert loaded(tmp_path) == 1


@pytest.mark.parametrize("damage", [cut, flip])
def test_a_damaged_record_is_refused_by_its_name(
    tmp_path: Path, damage: Callable[[Path], Any]
) -> None:
    save(tmp_path, 1)
    damage(tmp_path / "step-1" / "CHECKPOINT.json")
    with pytest.raises(UserError, match="step-1/CHECKPOINT.json .*; remove that checkpoint"):
        opened(tmp_path).open(tmp_path / "step-1")


@pytest.mark.parametrize(
    "settings", [{"keep": 1}, {"keep": 0}, {"keep": -2}, {"every_steps": 0}, {"keep_every": 0}]
)
def test_settings_that_would_lose_checkpoints_are_refused(
    tmp_path: Path, settings: dict[str, int]
) -> None:
    with pytest.raises(UserError, match="at least"):
        Checkpoints(tmp_path, CheckpointConfig(**settings))
