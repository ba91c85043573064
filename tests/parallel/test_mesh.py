"""How a mesh is chosen: pure arithmetic."""

import re
from pathlib import Path

import pytest

from sae_dist.coders import CoderConfig
from sae_dist.common.errors import UserError
from sae_dist.parallel import MachineConfig, MeshConfig, choose_mesh
from sae_dist.parallel.cost import message_seconds, messages, wire_bytes
from tests.coders.kinds import config_of_kind

H100 = MachineConfig()


def topk(num_latents: int) -> CoderConfig:
    return config_of_kind("topk", num_latents=num_latents, k=32)


def test_narrow_coders_are_all_data_and_wide_ones_all_latent() -> None:
    chosen = [
        choose_mesh(MeshConfig(), H100, 8, topk(2**log_width), 2304, 2304, batch_tokens=65536)
        for log_width in range(10, 21)
    ]
    assert chosen[0] == 1
    assert chosen[-1] == 8
    assert chosen == sorted(chosen)


def test_the_batch_decides_and_tiny_messages_are_not_worth_their_latency() -> None:
    def latent(width: int, batch_tokens: int) -> int:
        return choose_mesh(MeshConfig(), H100, 8, topk(width), 2304, 2304, batch_tokens)

    assert [latent(2**14, batch) for batch in (4096, 16384, 65536)] == [8, 4, 2]
    sizes = topk(256), 64, 64, 512
    meshes = {n: (8 // n, n) for n in (1, 2, 4, 8)}
    sent = {n: wire_bytes(messages(*sizes, mesh), mesh) for n, mesh in meshes.items()}
    assert min(sent, key=lambda n: sent[n]) > 1
    assert choose_mesh(MeshConfig(), H100, 8, *sizes) == 1


def test_latents_are_shared_within_a_node_before_they_cross_the_network() -> None:
    sizes = topk(2**14), 2304, 2304, 16384
    assert choose_mesh(MeshConfig(), H100, 64, *sizes) == 8
    step = messages(*sizes, (8, 8))
    nodes = (MachineConfig(devices_per_node=per_node) for per_node in (4, 64))
    slow, fast = (message_seconds(step, (8, 8), machine) for machine in nodes)
    assert slow > 2 * fast


def test_the_table_of_the_architecture_is_what_is_chosen() -> None:
    text = (Path(__file__).parents[2] / "docs/architecture.md").read_text()
    rows = re.findall(r"^\| ([\d,]+) \| (8|64)[^|]*\| (.*) \|$", text, re.MULTILINE)
    assert len(rows) == 4
    for batch, world, cells in rows:
        sizes = 2304, 2304, int(batch.replace(",", ""))
        chosen = [
            choose_mesh(MeshConfig(), H100, int(world), topk(2**log_width), *sizes)
            for log_width in range(11, 21)
        ]
        said = cells.replace(", ", " | ").split(" | ")
        said += said[-1:] * (len(chosen) - len(said))  # and more
        assert [f"{int(world) // latent}×{latent}" for latent in chosen] == said


def test_the_network_of_the_machine_decides() -> None:
    sizes = topk(2**14), 2304, 2304, 16384

    def latent(**network: float) -> int:
        return choose_mesh(MeshConfig(), MachineConfig(**network), 16, *sizes)

    assert latent() == latent(latency_us=0) == 8  # over two nodes, each of which shares latents
    assert latent(between_nodes_gbps=225) == 4  # as if all were in one
    assert latent(latency_us=1e5) == 1  # which has the fewest messages
    step = messages(*sizes, (2, 8))
    seconds = message_seconds(step, (2, 8), MachineConfig(latency_us=0, in_node_gbps=1e9))
    between = sum(m.wire_bytes(2) for m in step if m.over == "data")
    assert seconds == pytest.approx(between / 25e9, rel=1e-5)


def test_a_device_with_more_memory_holds_more_latents() -> None:
    sizes = 2, topk(2**20), 2304, 2304, 2**22  # 72 GiB, and a batch that asks for data
    assert choose_mesh(MeshConfig(), H100, *sizes) == 2
    assert choose_mesh(MeshConfig(), MachineConfig(memory_gib=131.3), *sizes) == 1


def test_a_coder_too_large_for_a_process_is_shared_even_if_that_costs_bytes() -> None:
    config = MeshConfig(memory_gib=1.0)  # 2¹⁶ · 2·512 · 16 bytes = 1 GiB, so 2¹⁷ needs two
    assert choose_mesh(config, H100, 4, topk(2**16), 512, 512, batch_tokens=2**24) == 1
    assert choose_mesh(config, H100, 4, topk(2**17), 512, 512, batch_tokens=2**24) == 2


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
        choose_mesh(config, H100, world, topk(width), 512, 512, 4096)
