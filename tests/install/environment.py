"""The wheel, and an environment that has sae_dist from it alone."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path


def build_wheel(source: Path, folder: Path) -> Path:
    """What `make wheel` builds of `source`, in `folder`."""
    build = (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder))
    subprocess.run(build, cwd=source, check=True, capture_output=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    return wheel


def make_environment(folder: Path, wheel: Path) -> None:
    """A virtual environment with the wheel, and this environment's packages behind it.

    These come through a `.pth` file, so that nothing is downloaded. An editable installation of
    sae_dist does not come along: `.pth` files in folders that a `.pth` file names are not read.
    """
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/python3.*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = (sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet")
    subprocess.run((*install, "--no-deps", "--no-index", str(wheel)), check=True, timeout=120)
    for name in ("accelerate", "torchrun"):
        lines = Path(sysconfig.get_path("scripts"), name).read_text().splitlines(keepends=True)
        script = folder / "bin" / name
        script.write_text("".join([f"#!{python}\n", *lines[1:]]))
        script.chmod(0o755)


def run(
    environment: Path, *arguments: str, cwd: Path, timeout: float = 120, **variables: str
) -> subprocess.CompletedProcess[str]:
    """A program of the environment, or one that uses it, without this checkout on the path."""
    hidden = ("PYTHON", "WANDB_", "RANK", "WORLD_SIZE", "LOCAL_RANK")
    settings = {
        **{name: value for name, value in os.environ.items() if not name.startswith(hidden)},
        "PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "disabled",
        **variables,
    }
    return subprocess.run(
        arguments, cwd=cwd, env=settings, capture_output=True, text=True, timeout=timeout
    )
