"""Where and of what a figure is: processor, threads, versions, commit, date."""

import datetime
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_UNITS = (  # that products and checksums use
    *("avx2", "avx512f", "avx512_bf16", "amx_bf16"),
    *("avx_vnni", "avx512_vnni", "amx_int8"),
)


def circumstances(*packages: str) -> dict[str, Any]:
    """Facts to stand beside figures: where they were measured, when, and with which packages."""
    about = _cpuinfo()
    commit = output_of("git", "describe", "--always", "--dirty", "--exclude=*")
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit or "no checkout",
        "processor": processor(about),
        "units": [unit for unit in _UNITS if unit in about.get("flags", "").split()],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "versions": {
            "python": platform.python_version(),
            **{name: _installed(name) for name in ("torch", *packages)},
        },
    }


def processor(about: dict[str, str]) -> str:
    """Its name, with family and model where the name alone says little."""
    if "model name" not in about:
        return platform.processor() or platform.machine()
    return f"{about['model name']} (family {about['cpu family']}, model {about['model']})"


def output_of(*command: str) -> str:
    """What a command prints in this checkout; nothing if it fails."""
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _cpuinfo() -> dict[str, str]:
    """What the kernel says of the first core, where it does."""
    try:
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
