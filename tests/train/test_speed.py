"""How a GPU's peak is found by its name."""

import pytest

from sae_dist.train.speed import peak_flops


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L40", None),
        ("NVIDIA RTX A4000", None),
        ("NVIDIA GB200", None),
    ],
)
def test_a_gpu_is_known_by_its_whole_name(device: str, expected: float | None) -> None:
    assert peak_flops(device) == expected
