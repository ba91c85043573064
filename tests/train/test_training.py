"""Training on meshes, resuming, and what happens when a batch is not finite."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sae_dist.coders import Form, kind_names, load_coder
from sae_dist.common.errors import UserError
from sae_dist.kernels import host
from sae_dist.parallel import MachineConfig, World
from sae_dist.train import (
    Adam,
    Muon,
    NonFiniteError,
    Preempted,
    SharedRows,
    Signum,
    signals,
    training_step,
)
from tests.processes import alone, run_on
from tests.train.ladders import BATCH, every_rung, make_store, rung, training_run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store") / "store")


SCHEDULE = {"warmup_steps": 10, "decay_share": 0.2, "clip_norm": 1.0, "sparsity_warmup_steps": 20}
OPTIMIZERS = [
    ("hierarchical_topk", Form.autoencoder, Adam(lr=3e-3, ema_decay=0.9, **SCHEDULE)),
    ("batchtopk", Form.transcoder, Signum(lr=1e-3, **SCHEDULE)),
    ("topk", Form.autoencoder, Muon(lr=1e-2, ema_decay=0.9, **SCHEDULE)),
    ("gated", Form.skip_transcoder, Muon(lr=1e-2, **SCHEDULE)),
]


def ladder(latent: int) -> list:
    """Every kind, most in every form, and every optimizer."""
    others = [
        replace(rung(kind, form, latent), name=f"{kind}-{form}-{optim.name}", optim=optim)
        for kind, form, optim in OPTIMIZERS
    ]
    return every_rung(latent) + others


def losses(folder: Path) -> dict[str, list[float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = {line["rung"] for line in lines if line["rung"]}
    return {name: [line["loss"] for line in lines if line["rung"] == name] for name in names}


def train(world: World, store: Path, folder: Path, latent: int, steps: int, **loop) -> None:
    training_run(world, store, folder, ladder(latent), steps, **loop).run()


def test_fifty_steps_give_the_same_losses_on_every_mesh(store: Path, tmp_path: Path) -> None:
    folders = {}
    for world, latent in ((1, 1), (2, 1), (2, 2), (4, 2)):
        folders[world, latent] = tmp_path / f"{world}-{latent}"
        run_on(world, train, store, folders[world, latent], latent, 50)
    expected = losses(folders[1, 1])
    assert len(expected) == 12 + len(OPTIMIZERS)
    assert all(len(values) == 50 for values in expected.values())
    assert all(
        values[-1] < values[0]
        for name, values in expected.items()
        if not ("jumprelu" in name or "gated" in name)  # whose λ rises
    )
    for folder in folders.values():
        for name, values in losses(folder).items():
            assert values == pytest.approx(expected[name], rel=1e-9), (folder, name)


def state(world: World, store: Path, folder: Path, latent: int, steps: int) -> dict:
    """Everything a run holds after `steps`, gathered from the mesh."""
    run = training_run(world, store, folder, ladder(latent), steps)
    if run.step < steps:
        run.run()
    return {name: tensor.full_tensor().numpy() for name, tensor in run._tensors().items()}


def chosen_meshes(world: World, store: Path, folder: Path) -> list[str]:
    """Where each message takes a second, and where each byte does."""
    machines = MachineConfig(latency_us=1e6), MachineConfig(in_node_gbps=1e-9)
    wide = rung("topk", latent=None)
    wide.coder.num_latents = 4096
    runs = (training_run(world, store, folder, [wide], 1, machine=one) for one in machines)
    return [str(run.rungs[0].mesh) for run in runs]


def test_meshes_are_chosen_for_the_machine_s_network(store: Path, tmp_path: Path) -> None:
    assert run_on(2, chosen_meshes, store, tmp_path) == [["2×1", "1×2"]] * 2


def test_a_checkpoint_loads_bitwise_on_any_mesh(store: Path, tmp_path: Path) -> None:
    saved = run_on(4, state, store, tmp_path, 2, 20)[0]
    assert saved["jumprelu-autoencoder/optimizer/W_enc/exp_avg_sq"].sum() > 0
    for world, latent in ((1, 1), (4, 4), (4, 1)):
        for loaded in run_on(world, state, store, tmp_path, latent, 20):
            assert saved.keys() == loaded.keys()
            for name, tensor in saved.items():
                assert np.array_equal(tensor, loaded[name]), (world, latent, name)


def test_resuming_on_the_same_mesh_is_bitwise_as_if_never_stopped(
    store: Path, tmp_path: Path
) -> None:
    run_on(2, train, store, tmp_path / "whole", 2, 60)
    for steps in (25, 40, 60):  # the schedules must not depend on where it stops
        run_on(2, resume_until, store, tmp_path / "stopped", 2, steps, 60)
    assert losses(tmp_path / "whole") == losses(tmp_path / "stopped")
    rows_F = load_coder(tmp_path / "whole/coders/topk-autoencoder-muon").W_dec.norm(dim=1)
    torch.testing.assert_close(rows_F, torch.ones_like(rows_F))
    for folder in sorted((tmp_path / "whole" / "coders").iterdir()):
        whole = load_coder(folder).state_dict()
        stopped = load_coder(tmp_path / "stopped" / "coders" / folder.name).state_dict()
        assert all(torch.equal(whole[name], stopped[name]) for name in whole), folder.name


def resume_until(
    world: World, store: Path, folder: Path, latent: int, stop: int, steps: int
) -> None:
    """Run to `stop`, and end there as a preempted job does."""
    import os
    import signal

    signals._ASK_SECONDS = 0.0
    run = training_run(world, store, folder, ladder(latent), steps, every_steps=1000)
    if stop == steps:
        return run.run()
    real_step = run._step

    def step(acts: dict) -> list:
        if run.step == stop - 1 and world.rank == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return real_step(acts)

    run._step = step
    with pytest.raises(Preempted, match=f"saved at step {stop}"):
        run.run()


def test_the_coder_that_is_written_is_the_average(store: Path, tmp_path: Path) -> None:
    config = replace(rung("topk"), optim=Adam(lr=3e-2, warmup_steps=1, ema_decay=0.5))
    run = training_run(alone(), store, tmp_path, [config], 5)
    run.run()
    mean, written = run.rungs[0].average.weights, load_coder(tmp_path / "coders" / config.name)
    torch.testing.assert_close(written.W_enc.double(), mean["W_enc"])
    unit_FD = torch.nn.functional.normalize(mean["W_dec"], dim=1)
    torch.testing.assert_close(written.W_dec.double(), unit_FD)
    assert not torch.allclose(run.rungs[0].coder.W_enc, mean["W_enc"], rtol=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed was 0, is 1"),
        ({"rungs": [rung("topk", k=5)]}, r"coder.k was 4, is 5"),
    ],
)
def test_a_changed_run_is_refused_with_what_changed(
    store: Path, tmp_path: Path, change: dict, message: str
) -> None:
    def start(world: World, **changed: object) -> None:
        settings = {"rungs": [rung("topk")], "steps": 2} | changed
        rungs, steps = settings.pop("rungs"), settings.pop("steps")
        training_run(world, store, tmp_path, rungs, steps, **settings).run()

    world = alone()
    start(world)
    with pytest.raises(UserError, match=message):
        start(world, **change)


@pytest.mark.parametrize("kind", kind_names())
def test_a_batch_that_is_not_finite_changes_nothing(store: Path, tmp_path: Path, kind: str) -> None:
    run = training_run(alone(), store, tmp_path, [rung(kind)], 5)
    run.run()
    (only,) = run.rungs
    before = {name: tensor.full_tensor().clone() for name, tensor in run._tensors().items()}
    acts = {"in": torch.randn(BATCH, 16, dtype=torch.float64)}
    acts["in"][3, 4] = torch.nan
    for _ in range(9):
        training_step(only, SharedRows(acts, torch.float64), 5, 100)
    after = {name: tensor.full_tensor() for name, tensor in run._tensors().items()}
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert only.progress.counts_3.tolist() == [5, 9, 9]
    acts["in"][3, 4] = 0.0
    training_step(only, SharedRows(acts, torch.float64), 5, 100)
    assert only.progress.counts_3.tolist() == [6, 9, 0]


@pytest.mark.parametrize("at_hand", [True, False])
def test_ten_skipped_steps_in_a_row_end_a_run(
    store: Path, tmp_path: Path, at_hand: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "is_at_hand", lambda x: at_hand)
    run = training_run(alone(), store, tmp_path, [rung("topk")], 12)
    with torch.no_grad():
        run.rungs[0].coder.b_dec.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="10 steps in a row"):
        run.run()
    assert run.rungs[0].progress.counts_3.tolist() == [
        0,
        10,
        10,
    ]  # a histogram's step is waited for


def nan_on_one_rank(world: World, store: Path, folder: Path) -> tuple[int, bool]:
    run = training_run(world, store, folder, [rung("topk", latent=2)], 3)
    run.run()
    acts = {"in": torch.randn(BATCH // 4, 16, dtype=torch.float64)}
    if world.rank == 3:
        acts["in"][0, 0] = torch.inf
    weights = run.rungs[0].coder.W_enc.detach().clone()
    training_step(run.rungs[0], SharedRows(acts, torch.float64), 3, 100)
    return int(run.rungs[0].progress.counts_3[1]), torch.equal(weights, run.rungs[0].coder.W_enc)


def test_a_bad_batch_on_one_rank_is_skipped_by_all(store: Path, tmp_path: Path) -> None:
    assert run_on(4, nan_on_one_rank, store, tmp_path) == [(1, True)] * 4


def test_dead_latents_are_counted_and_revived_by_aux_k(store: Path, tmp_path: Path) -> None:
    run = training_run(alone(), store, tmp_path, [rung("topk", k=1, dead_after_tokens=BATCH)], 60)
    run.run()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    shares = [line["dead_share"] for line in lines if line["rung"]]
    assert any("loss/aux_k" in line for line in lines)
    assert any(later < share for share, later in pairwise(shares))


def test_unit_norm_and_thresholds_are_kept(store: Path, tmp_path: Path) -> None:
    run = training_run(alone(), store, tmp_path, [rung("jumprelu"), rung("batchtopk")], 30)
    run.run()
    jumprelu, batchtopk = (rung.coder for rung in run.rungs)
    torch.testing.assert_close(jumprelu.W_dec.norm(dim=1), torch.ones(32, dtype=torch.float64))
    assert (jumprelu.threshold >= 0).all()
    assert jumprelu.threshold.std() > 0
    assert batchtopk.threshold > 0
    folded = load_coder(tmp_path / "coders" / "batchtopk-autoencoder")
    scale = run.rungs[1].scale
    torch.testing.assert_close(folded.threshold, batchtopk.threshold * scale)


def step_of_the_wish(world: World) -> tuple[int, int]:
    """When a wish of the last process is heard, and how often all asked each other till then."""
    asked = []

    def largest(numbers: list[float]) -> list[float]:
        asked.append(numbers)
        return World.largest(world, numbers)

    anyone = signals.AnyProcess(SimpleNamespace(size=world.size, largest=largest), 0)
    step = next(
        step for step in range(1, 1000) if anyone.wishes(step, world.rank == 1 and step > 100)
    )
    return step, len(asked)


def test_a_wish_to_end_is_heard_by_all_at_one_step_and_not_asked_for_at_each() -> None:
    heard = run_on(2, step_of_the_wish)
    assert heard[0] == heard[1]
    (step, times), _ = heard
    assert 100 < step < 1000 and times < 50
