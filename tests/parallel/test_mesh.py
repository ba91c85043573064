"""How a mesh is chosen: pure arithmetic."""

import pytest

from sae_dist.coders import CoderConfig
from sae_dist.common.errors import UserError
from sae_dist.parallel import MeshConfig, choose_mesh
from sae_dist.parallel.cost import wire_bytes
from tests.coders.kinds import config_of_kind


def topk(num_latents: int) -> CoderConfig:
    return config_of_kind("topk", num_latents=num_latents, k=32)


def test_narrow_coders_are_all_data_and_wide_ones_all_latent() -> None:
    chosen = [
        choose_mesh(MeshConfig(), 8, topk(2**log_width), 2304, 2304, batch_tokens=65536)
        for log_width in range(10, 21)
    ]
    assert chosen[0] == 1
    assert chosen[-1] == 8
    assert chosen == sorted(chosen)


def test_the_chosen_mesh_sends_the_fewest_bytes() -> None:
    for width in (2**11, 2**14, 2**17):
        chosen = choose_mesh(MeshConfig(), 8, topk(width), 512, 512, 4096)
        sent = {n: wire_bytes(topk(width), 512, 512, 4096, (8 // n, n)) for n in (1, 2, 4, 8)}
        assert sent[chosen] == min(sent.values())


def test_a_coder_too_large_for_a_process_is_shared_even_if_that_costs_bytes() -> None:
    config = MeshConfig(memory_gib=1.0)  # 2¹⁶ · 2·512 · 16 bytes = 1 GiB, so 2¹⁷ needs two
    assert choose_mesh(config, 4, topk(2**16), 512, 512, batch_tokens=2**24) == 1
    assert choose_mesh(config, 4, topk(2**17), 512, 512, batch_tokens=2**24) == 2


@pytest.mark.parametrize(
    ("config", "world", "width", "message"),
    [
        (MeshConfig(latent=3), 4, 1024, r"parallel.latent=3 must divide .* one of \[1, 2, 4\]"),
        (MeshConfig(latent=4), 4, 1022, r"one of \[1, 2\]"),
        (MeshConfig(memory_gib=0.001), 2, 2**20, "start more processes"),
    ],
)
def test_what_fits_no_mesh_is_refused_with_what_would(
    config: MeshConfig, world: int, width: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        choose_mesh(config, world, topk(width), 512, 512, 4096)
