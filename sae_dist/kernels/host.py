"""What the host knows of numbers on a device."""

from torch import Tensor


def is_at_hand(x: Tensor) -> bool:
    """Whether the host can read a tensor without waiting for the device that computes it."""
    return not x.is_cuda
