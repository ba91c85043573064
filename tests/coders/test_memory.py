"""A step never holds a tensor of B × F: not forward, not backward, not while a coder is dense."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sae_dist.coders import Coder, DeadLatents, initialise, kind_names, training_forward
from sae_dist.kernels import aux, dense, search
from tests.coders.kinds import config_of_kind

B, D, F, BLOCK = 256, 32, 4096, 1 << 13


class LargestTensor(TorchDispatchMode):
    """Notes the most elements of any tensor that an operation gives."""

    num_elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.layout is torch.strided:
                self.num_elements = max(self.num_elements, leaf.numel())
        return result


@pytest.mark.parametrize(
    ("kind", "threshold"), [*((kind, 0.4) for kind in kind_names()), ("jumprelu", 0)]
)
def test_no_tensor_of_rows_times_latents(
    kind: str, threshold: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(search._BLOCK_VALUES, "cpu", BLOCK)
    monkeypatch.setitem(dense._BLOCK_VALUES, "cpu", BLOCK)
    monkeypatch.setitem(dense._BLOCK_LATENTS, "cpu", 1024)
    monkeypatch.setitem(aux._BLOCK_VALUES, "cpu", BLOCK)
    x_BD = torch.randn(B, D, generator=torch.Generator().manual_seed(0))
    coder = Coder(config_of_kind(kind, num_latents=F, k=4, aux_k=8, aux_coefficient=1 / 32), D, D)
    initialise(coder, 0, x_BD, x_BD)
    if kind == "jumprelu":
        coder.threshold.data.fill_(threshold * float(x_BD.norm(dim=1).max()))
    dead_F = torch.ones(F, dtype=torch.bool)
    search.search_dtype(coder.W_enc)  # tried once on a processor, with products of its own
    with LargestTensor() as largest:
        forward = training_forward(
            coder.train(), x_BD, x_BD, sparsity_coefficient=0.1, dead=DeadLatents.of(dead_F)
        )
        forward.loss.backward()
    assert float(forward.l0) > (F / 8 if threshold == 0 else 0)
    assert F * D <= largest.num_elements < B * F // 4
