"""Replicas are compared bit by bit."""

from pathlib import Path

import pytest
import torch

from sae_dist.common.errors import UserError
from sae_dist.parallel import World
from sae_dist.train.replicas import bit_hash
from tests.coders.kinds import KINDS
from tests.processes import run_on
from tests.train.ladders import make_store, rung, training_run


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64])
def test_every_flipped_bit_changes_the_hash(dtype: torch.dtype) -> None:
    tensor = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).mul(9).to(dtype)
    before, whole = tensor.clone(), bit_hash(tensor)
    bits = tensor.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])
    for place in range(tensor.numel()):
        for bit in range(8 * tensor.element_size() - 1):
            bits.view(-1)[place] ^= 1 << bit
            assert bit_hash(tensor) != whole
            bits.view(-1)[place] ^= 1 << bit
    assert torch.equal(before, tensor)


def test_the_hash_sees_order_and_is_that_of_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.arange(1000, dtype=torch.float32)
    whole = bit_hash(tensor)
    assert bit_hash(tensor.flip(0)) != whole
    monkeypatch.setattr("sae_dist.train.replicas._BLOCK_VALUES", 7)
    assert bit_hash(tensor) == whole


def flip_one_bit(world: World, store: Path, folder: Path) -> tuple[int, str]:
    """Rank 2 loses a bit of a weight at step 3; the step and line with which all end."""
    run = training_run(world, store, folder, [rung(kind, latent=2) for kind in KINDS], 9)
    run.config.watch.replicas_every_steps, run.config.checkpoint.every_steps = 4, 6
    real_step = run.watch.step

    def step(step: int) -> None:
        if step == 3 and world.rank == 2:
            coder = run.rungs[1].coder
            coder.W_dec.data.view(torch.int64)[1, 2] ^= 1
        real_step(step)

    run.watch.step = step  # type: ignore[method-assign]
    with pytest.raises(UserError) as error:
        run.run()
    return run.step, str(error.value)


def test_a_flipped_bit_is_found_at_the_next_check(store_and_folder: tuple[Path, Path]) -> None:
    store, folder = store_and_folder
    found = run_on(4, flip_one_bit, store, folder)
    assert {step for step, _ in found} == {4} and len({line for _, line in found}) == 1
    assert "rung topk-autoencoder: W_dec of rank 2 is not that of rank 0" in found[0][1]
    assert not list((folder / "checkpoints").glob("step-*"))


@pytest.fixture
def store_and_folder(tmp_path: Path) -> tuple[Path, Path]:
    return make_store(tmp_path / "store", num_tokens=2048), tmp_path / "run"
