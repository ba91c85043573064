"""Checkpoints under kills, full disks and second jobs."""

import os
import resource
import signal
import sys
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp

from sae_dist.checkpoint import CheckpointConfig, Checkpoints
from sae_dist.common.errors import UserError
from sae_dist.parallel import World
from sae_dist.train import TrainingRun
from tests.coders.kinds import KINDS
from tests.processes import CONTEXT, alone, as_rank, run_on
from tests.reliability.saved import load, save, tensors
from tests.train.ladders import every_optimizer, make_store, rung, training_run

FILE_OPERATIONS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")


# Kills


def save_and_die(world: World, folder: Path, victim: int, operation: int) -> None:
    """Save step 3 after 1 and 2; SIGKILL one rank before its file operation of that number."""
    checkpoints = Checkpoints(folder, CheckpointConfig())
    for step in (1, 2):
        checkpoints.save(step, tensors(step), {"step": step})
    checkpoints.finish()
    count = 0

    def hook(event: str, _: Any) -> None:
        nonlocal count
        if event in FILE_OPERATIONS and world.rank == victim:
            count += 1
            if count == operation:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    checkpoints.save(3, tensors(3), {"step": 3})
    checkpoints.finish()


def kill_at(folder: Path, operation: int, victim: int = 0, world: int = 1) -> bool:
    """Whether the save was killed, rather than done before; both leave a whole checkpoint."""
    arguments = (CONTEXT.Queue(), save_and_die, (folder / "run", victim, operation))
    folder.mkdir(exist_ok=True)
    processes = [
        CONTEXT.Process(target=as_rank, args=(rank, world, folder / "store", *arguments))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        if process.exitcode is None:  # it hangs
            process.kill()
            pytest.fail("a process outlived the kill of another by a minute")
    codes = [process.exitcode for process in processes]
    assert codes[victim] in (0, -signal.SIGKILL)
    assert all(code == 0 for rank, code in enumerate(codes) if rank != victim)  # it ended by itself
    newest = load(folder / "run")
    assert newest in (2, 3)
    for path in (folder / "run").glob("step-?"):
        assert f"step-{load(folder / 'run', path)}" == path.name  # none is seen in parts
    save(folder / "run", 4)
    kept = {path.name for path in (folder / "run").iterdir()}
    assert kept - {f"step-{newest}", "step-3"} == {"latest", "lock", "step-4"}
    assert load(folder / "run") == 4
    return codes[victim] != 0


@pytest.mark.parametrize("operation", [2, 10, 18])  # all of them: the slow test below
def test_a_kill_while_saving_leaves_a_checkpoint_to_go_on_from(
    tmp_path: Path, operation: int
) -> None:
    assert kill_at(tmp_path, operation)


@pytest.mark.slow
def test_a_kill_at_every_file_operation_of_a_save_leaves_a_checkpoint(tmp_path: Path) -> None:
    operation = 1
    while kill_at(tmp_path / str(operation), operation):
        operation += 1
    print(f"\n{operation - 1} kills, one before each file operation of a save: 0 lost")
    assert operation > 18


@pytest.mark.parametrize("operation", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_kill_of_one_rank_while_saving_ends_the_other_and_leaves_a_checkpoint(
    tmp_path: Path, operation: int
) -> None:
    assert kill_at(tmp_path, operation, victim=1, world=2)


# Saving beside the training


def test_what_is_saved_is_what_was_there_when_save_returned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, dcp_save = threading.Event(), dcp.save
    monkeypatch.setattr(dcp, "save", lambda *a, **k: (go_on.wait(60), dcp_save(*a, **k)))
    alone()
    checkpoints = Checkpoints(tmp_path, CheckpointConfig())
    state = tensors(1.0)
    checkpoints.save(1, state, {"step": 1})
    for tensor in state.values():
        tensor.fill_(2.0)  # training goes on
    assert checkpoints.latest() is None
    go_on.set()
    checkpoints.save(2, state, {"step": 2})
    assert checkpoints.latest() == tmp_path / "step-1"
    checkpoints.finish()
    assert load(tmp_path, tmp_path / "step-1") == 1
    assert load(tmp_path) == 2


def test_host_memory_is_taken_once(tmp_path: Path) -> None:
    alone()
    state, places = tensors(1.0), set()
    with Checkpoints(tmp_path, CheckpointConfig()) as checkpoints:
        stage = checkpoints._stager.stage

        def staged(found: Any) -> Any:
            found = stage(found)
            places.add(found["rung/W"].data_ptr())
            return found

        checkpoints._stager.stage = staged  # type: ignore[method-assign]
        for step in (1, 2, 3):
            checkpoints.save(step, state, {"step": 1})
    assert len(places) == 1 and places != {state["rung/W"].data_ptr()}


# Another mesh


def held(run: TrainingRun) -> dict[str, np.ndarray]:
    """All that a checkpoint holds, gathered from the mesh."""
    found = {name: tensor.full_tensor().numpy() for name, tensor in run._tensors().items()}
    numbers = {rung.name: np.array(list(rung.numbers().values())) for rung in run.rungs}
    return found | numbers


def made_up_run(world: World, store: Path, folder: Path, latent: int) -> TrainingRun:
    rungs = [*(rung(kind, latent=latent) for kind in KINDS), *every_optimizer(latent)]
    return training_run(world, store, folder, rungs, 20)


def save_made_up(world: World, store: Path, folder: Path, latent: int) -> dict[str, np.ndarray]:
    """Save a run in which no tensor and no number is zero, or like another."""
    run = made_up_run(world, store, folder, latent)
    for name, tensor in run._tensors().items():
        is_slice = tensor.placements[1].is_shard()
        part = tensor.device_mesh.get_local_rank("latent") if is_slice else 0
        local = tensor.to_local()
        made_up = np.random.default_rng([zlib.crc32(name.encode()), part]).random(local.shape)
        local.copy_(torch.from_numpy(np.asarray(made_up * 1000 + 1)))
    for at, one in enumerate(run.rungs):
        one.set_numbers({name: 10 * at + i for i, name in enumerate(one.numbers(), start=1)})
    run.step = 7
    with run.checkpoints:
        run._save()
    return held(run)


def load_made_up(world: World, store: Path, folder: Path, latent: int) -> dict[str, np.ndarray]:
    run = made_up_run(world, store, folder, latent)
    assert run.step == 7
    return held(run)


def test_a_checkpoint_of_2_by_2_loads_bitwise_on_every_mesh(tmp_path: Path) -> None:
    store, folder = make_store(tmp_path / "store"), tmp_path / "run"
    saved = run_on(4, save_made_up, store, folder, 2)[0]
    ends = {name.rpartition("/")[2] for name in saved}
    assert ends > {"W_enc", "exp_avg", "exp_avg_sq", "last_step", "silent", "fired", "threshold"}
    assert all(value.all() for value in saved.values())
    for world, latent in ((4, 1), (2, 2), (4, 4), (4, 2), (1, 1)):
        for loaded in run_on(world, load_made_up, store, folder, latent):
            assert saved.keys() == loaded.keys()
            for name, value in saved.items():
                assert np.array_equal(value, loaded[name]), (world, latent, name)


# Saves that fail


def allow_file_bytes(most: int) -> None:
    """Let writing beyond `most` fail, as on a full disk, but for all users."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))


def train_onto_a_full_disk(world: World, store: Path, folder: Path) -> tuple[str, int]:
    run = training_run(world, store, folder, [rung("topk", latent=2)], 40, every_steps=10)
    measure = run._measure

    def measured(*args: Any) -> Any:
        if world.rank == 1 and run.step == 15:
            allow_file_bytes(1000)
        return measure(*args)

    run._measure = measured  # type: ignore[method-assign]
    with pytest.raises(UserError) as failure:
        run.run()
    allow_file_bytes(resource.RLIM_INFINITY)
    return str(failure.value), run.step


def test_a_save_that_fails_on_one_rank_ends_the_run_on_all_and_loses_nothing(
    tmp_path: Path,
) -> None:
    store = make_store(tmp_path / "store")
    found = run_on(2, train_onto_a_full_disk, store, tmp_path / "run")
    assert found[0] == found[1]  # the same line, at the same step
    message, step = found[0]
    assert 20 < step <= 30
    assert "step-20 was not saved: " in message and "File too large" in message
    assert "\n" not in message and "start the command again" in message
    checkpoints = tmp_path / "run" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["latest", "lock", "step-10"]
    assert run_on(2, go_on, store, tmp_path / "run") == [(10, 40)] * 2


def go_on(world: World, store: Path, folder: Path) -> tuple[int, int]:
    run = training_run(world, store, folder, [rung("topk", latent=2)], 40, every_steps=10)
    began = run.step
    run.run()
    return began, run.step


def test_a_folder_that_may_not_be_written_is_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)
    checkpoints = Checkpoints(tmp_path, CheckpointConfig())
    monkeypatch.setattr(Path, "mkdir", refuse)
    checkpoints.save(2, tensors(2.0), {"step": 2})
    with pytest.raises(UserError, match="step-2 was not saved: .*Permission denied"):
        checkpoints.finish()
    checkpoints.finish()  # told once
    assert load(tmp_path) == 1


def refuse(*args: Any, **kwargs: Any) -> None:
    raise PermissionError(13, "Permission denied")


# Two jobs


def hold_until_told(folder: Path, is_held: Any, end: Any) -> None:
    os.environ["SLURM_JOB_ID"] = "4711"
    save(folder, 1)
    is_held.set()
    end.wait(60)


def test_a_second_job_is_refused_and_told_who_is_there(tmp_path: Path) -> None:
    is_held, end = CONTEXT.Event(), CONTEXT.Event()
    process = CONTEXT.Process(target=hold_until_told, args=(tmp_path, is_held, end))
    process.start()
    try:
        assert is_held.wait(60)
        (tmp_path / "step-2.tmp-ab").mkdir()  # its save in flight
        line = f"{tmp_path} is in use by process {process.pid} on .*, Slurm job 4711; wait"
        with pytest.raises(UserError, match=line):
            save(tmp_path, 3)
        assert (tmp_path / "step-2.tmp-ab").is_dir()
    finally:
        process.kill()
        process.join()
    save(tmp_path, 3)  # nothing has to be cleared away first
    assert load(tmp_path) == 3
