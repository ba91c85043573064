"""Writing a coder whose latents are shared: what each process holds meanwhile, and the file."""

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sae_dist.coders import (
    Coder,
    files,
    fold,
    initialise,
    save_coder,
    slice_of,
)
from sae_dist.coders.files import WEIGHTS
from sae_dist.parallel import World, gather_latents, make_mesh, set_mesh
from tests.coders.kinds import config_of_kind
from tests.processes import run_on

D, F, SCALE = 64, 2048, 3.0
BLOCK = 16 * D * 8  # bytes of 16 rows in float64


class Held(TorchDispatchMode):
    """The most bytes at once of tensors that came into being since."""

    def __init__(self, before: Coder) -> None:
        super().__init__()
        self.known = {p.untyped_storage().data_ptr() for p in before.state_dict().values()}
        self.alive: list[weakref.ref[Tensor]] = []
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.alive += [weakref.ref(leaf) for leaf in made if leaf.device.type == "cpu"]
        self.alive = [tensor for tensor in self.alive if tensor() is not None]
        storages = {
            t.untyped_storage().data_ptr(): t for ref in self.alive if (t := ref()) is not None
        }
        held = [t.untyped_storage().nbytes() for at, t in storages.items() if at not in self.known]
        self.most = max(self.most, sum(held))
        return result


def coder_of(kind: str, latents: range | None = None) -> Coder:
    config = config_of_kind(kind, num_latents=F, k=4)
    coder = Coder(config, D, D, latents=latents, dtype=torch.float64)
    x_ND = torch.randn(100, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    initialise(coder, 0, x_ND, x_ND)
    return coder


def export(world: World, folder: Path, kind: str) -> int:
    mesh = make_mesh(world, world.size, {})
    files._BLOCK_BYTES = BLOCK
    coder = set_mesh(coder_of(kind, slice_of(F, world.rank, world.size)), mesh)
    with Held(coder) as held:
        folded = fold(coder, SCALE)
        tensors = gather_latents(folded, mesh)
        if tensors is not None:
            save_coder(folder, folded, tensors, {})
    return held.most


@pytest.mark.parametrize(("world", "kind"), [(1, "jumprelu"), (2, "batchtopk")])
def test_no_process_holds_more_than_its_slice_and_a_block(
    tmp_path: Path, world: int, kind: str
) -> None:
    held = run_on(world, export, tmp_path, kind)
    vectors = 8 * 3 * (F + D)  # b_enc, θ and b_dec on raw activations, and what they are made of
    assert max(held) <= BLOCK + vectors < F // 2 * D * 8 // 4
    whole = fold(coder_of(kind), SCALE)
    save_file(whole.state_dict(), tmp_path / "expected")
    assert (tmp_path / WEIGHTS).read_bytes() == (tmp_path / "expected").read_bytes()
