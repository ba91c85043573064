"""How a mesh is chosen: pure arithmetic."""

import pytest

from sae_dist.coders import CoderConfig
from sae_dist.common.errors import UserError
from sae_dist.parallel import MeshConfig, choose_mesh
from sae_dist.parallel.cost import message_seconds, messages, wire_bytes
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


def test_the_batch_decides_and_tiny_messages_are_not_worth_their_latency() -> None:
    def latent(width: int, batch_tokens: int) -> int:
        return choose_mesh(MeshConfig(), 8, topk(width), 2304, 2304, batch_tokens)

    assert [latent(2**14, batch) for batch in (4096, 16384, 65536)] == [8, 4, 2]
    sizes = topk(256), 64, 64, 512
    meshes = {n: (8 // n, n) for n in (1, 2, 4, 8)}
    sent = {n: wire_bytes(messages(*sizes, mesh), mesh) for n, mesh in meshes.items()}
    assert min(sent, key=lambda n: sent[n]) > 1
    assert choose_mesh(MeshConfig(), 8, *sizes) == 1


def test_latents_are_shared_within_a_node_before_they_cross_the_network() -> None:
    sizes = topk(2**14), 2304, 2304, 16384
    assert choose_mesh(MeshConfig(), 64, *sizes, per_node=8) == 8
    step = messages(*sizes, (8, 8))
    slow, fast = (message_seconds(step, (8, 8), per_node) for per_node in (4, 64))
    assert slow > 2 * fast


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
