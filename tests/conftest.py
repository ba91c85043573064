"""What holds for every test: Triton's interpreter without a GPU, and no waiting in vain."""

import gc
import os

import pytest
import torch

import tests.disks  # noqa: F401

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read at the first import of triton, whoever does it


@pytest.fixture(autouse=True)
def _frozen() -> None:
    """Training begins with a look through all garbage: not among all that is imported."""
    gc.freeze()
