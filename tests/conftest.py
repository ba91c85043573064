"""Without a GPU, Triton's kernels are tested in its interpreter."""

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read at the first import of triton, whoever does it
