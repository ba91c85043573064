"""`python -m benchmarks.device`: short for `python -m benchmarks device`, for a machine at hand."""

import os
import sys

# Without a launcher the loopback device does, and blocks of memory may grow.
for name, value in {
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
}.items():
    os.environ.setdefault(name, value)

from benchmarks.__main__ import run  # noqa: E402 - torch reads these when it is imported

if __name__ == "__main__":
    print(f"wrote {run('device', sys.argv[1:])}")
