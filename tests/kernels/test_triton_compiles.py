"""The compiler accepts what the interpreter runs: every kernel, for Hopper, without a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="needs triton")

SHARED_OF_AN_SM, REGISTERS_OF_AN_SM = 227 * 1024, 64 * 1024


@pytest.mark.slow
def test_every_kernel_compiles_for_hopper_and_keeps_to_its_registers(tmp_path: Path) -> None:
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.compile_for_hopper"],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    kernels = json.loads(done.stdout)
    assert len(kernels) > 10
    for name, taken in kernels.items():
        assert taken["spilled"] == 0, name
        assert taken["shared"] <= SHARED_OF_AN_SM, name
        programs = REGISTERS_OF_AN_SM // (taken["registers"] * taken["threads"])
        assert programs >= (1 if name.startswith("product") else 2), name  # one waits, one computes
        assert taken["wgmma"] == name.startswith("product"), name
