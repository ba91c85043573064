"""What products, memory and a disk do in a second, measured in seconds."""

import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import torch

_CALLS, _ROUNDS = 8, 5
_COPY_BYTES = {"cpu": 1 << 27, "cuda": 1 << 31}
_FILE_BYTES, _BLOCK_BYTES = 1 << 28, 1 << 24


def product_rate(device: torch.device, dtype: torch.dtype | None = None) -> float:
    """Floating-point operations a second: bfloat16 on GPUs, float32 on CPUs; the best of rounds."""
    is_cuda = device.type == "cuda"
    size, dtype = 8192 if is_cuda else 1024, dtype or (torch.bfloat16 if is_cuda else torch.float32)
    x, y = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / _best(lambda: torch.mm(x, y), device)


def copy_rate(device: torch.device) -> float:
    """Bytes a second that are read and written by a copy in the device's memory, both counted."""
    x, y = (torch.ones(_COPY_BYTES[device.type], dtype=torch.uint8, device=device) for _ in "xy")
    return 2 * x.nbytes / _best(lambda: y.copy_(x), device)


def disk_rate(folder: Path) -> float:
    """Bytes a second that reach the disk of `folder`: a new file of 256 MiB, fsync included."""
    path, block = folder / f"rate-{uuid.uuid4().hex[:8]}.tmp", os.urandom(_BLOCK_BYTES)
    try:
        with path.open("wb", buffering=0) as file:
            start = time.perf_counter()
            for _ in range(_FILE_BYTES // _BLOCK_BYTES):
                file.write(block)
            os.fsync(file.fileno())
            return _FILE_BYTES / (time.perf_counter() - start)
    finally:
        path.unlink(missing_ok=True)


def seconds_of(run: Callable[[], object], device: torch.device, times: int) -> float:
    """Seconds one call takes, of several in a row after one that is not counted."""
    run()
    start = _now(device)
    for _ in range(times):
        run()
    return (_now(device) - start) / times


def _best(run: Callable[[], object], device: torch.device) -> float:
    return min(seconds_of(run, device, _CALLS) for _ in range(_ROUNDS))


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
