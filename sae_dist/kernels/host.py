"""What the host knows of numbers on a device."""

from collections.abc import Callable

import torch
from torch import Tensor


def is_at_hand(x: Tensor) -> bool:
    """Whether the host can read a tensor without waiting for the device that computes it."""
    return not x.is_cuda


def start_reading(numbers: Tensor) -> Callable[[], Tensor]:
    """Begin to copy numbers as they are now to the host; call what is returned when they are read.

    Only that call waits: for the copy, and for what came before it.
    """
    if not numbers.is_cuda:
        copy = numbers.clone()
        return lambda: copy
    host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
    host.copy_(numbers, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()

    def read() -> Tensor:
        copied.synchronize()
        return host

    return read


class Room:
    """For how many entries a search has room, as told by what the last ones found.

    Their number is read a search late, so that no host waits for it, and there is room for about
    twice as many; the size changes seldom. While nothing is known, a search waits for its number.
    """

    def __init__(self) -> None:
        self._num_found: int | None = None
        self._size = 0
        self._coming: Callable[[], Tensor] | None = None

    def tell(self, num_found: int) -> None:
        """Know the number that was found."""
        self._num_found, self._coming = num_found, None

    def start_telling(self, num_found: Tensor) -> None:
        """The same of a number on the device (0-dim), which is known from the next search on."""
        self._coming = start_reading(num_found)

    def num_found(self) -> int | None:
        """What was found last, if it is known."""
        if self._coming is not None:
            self._num_found, self._coming = int(self._coming().numpy()), None
        return self._num_found

    def size(self, num_found: int) -> int:
        """The size for a search that may find about as many."""
        num_found = max(1, num_found)
        if not 5 * num_found <= 4 * self._size <= 32 * num_found:
            self._size = 1 << (2 * num_found).bit_length()
        return self._size
