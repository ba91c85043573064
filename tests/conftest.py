"""What holds for every test: Triton's interpreter without a GPU, and no waiting for disks."""

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read at the first import of triton, whoever does it


def _written(descriptor: int) -> None:
    """As os.fsync, but whether it reached the disk no test could tell: none pulls the plug."""
    os.fstat(descriptor)


os.fsync = _written
