"""What the wheel holds, and that its commands need no checkout."""

import stat
import subprocess
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

from tests.apps.commands import ROOT
from tests.install.environment import run

LAUNCH = ("launch/accelerate", "launch/first_run.sh", "launch/slurm")


def sources() -> set[str]:
    """Every file of the checkout that belongs into the wheel, as it is called there."""
    tracked = ("git", "ls-files", "--cached", "--others", "--exclude-standard")
    done = subprocess.run(
        (*tracked, "sae_dist", "conf", *LAUNCH), cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip("git knows no checkout here, so that no file can be told from what was left")
    paths = [path for path in done.stdout.splitlines() if (ROOT / path).exists()]
    return {path if path.startswith("sae_dist/") else f"sae_dist/{path}" for path in paths}


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


def test_it_holds_the_package_and_its_data_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = sources()
    assert names == expected
    assert {Path(name).suffix for name in names} >= {".py", ".typed", ".yaml", ".jinja", ".css"}
    assert not any("tests" in name or "__pycache__" in name for name in names)


def test_scripts_can_be_run(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in ("first_run.sh", "slurm/rank.sh"):
            mode = archive.getinfo(f"sae_dist/launch/{name}").external_attr >> 16
            assert mode & stat.S_IXUSR


def test_the_metadata_says_what_is_needed(wheel: Path) -> None:
    found = metadata(wheel)
    assert found["Description-Content-Type"] == "text/markdown"
    described = found.get_payload(decode=True)
    assert described == (ROOT / "README.md").read_bytes()
    extras = {"gpu", "deepspeed", "hub", "gguf", "objects", "bench", "wandb", "tensorboard"}
    extras |= {"judge", "docs", "dev"}
    assert set(found.get_all("Provides-Extra", [])) == extras
    unconditional = [one for one in found.get_all("Requires-Dist", []) if "extra ==" not in one]
    assert any(one.startswith("torch") for one in unconditional)
    assert not any(one.startswith(("triton", "deepspeed", "pytest")) for one in unconditional)
    assert found["License-File"] == "LICENSE"


def test_its_files_are_found_outside_of_a_checkout(installed: Path, tmp_path: Path) -> None:
    done = run(installed, "sae-dist", "files", f"to={tmp_path / 'new'}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    launch = tmp_path / "new" / "launch"
    found = {str(path.relative_to(launch)) for path in launch.rglob("*") if path.is_file()}
    written = {name for name in sources() if name.startswith("sae_dist/launch/")}
    assert found == {name.removeprefix("sae_dist/launch/") for name in written}
    assert (launch / "slurm" / "rank.sh").stat().st_mode & stat.S_IXUSR


def test_python_finds_the_wheel_and_not_the_checkout(installed: Path, tmp_path: Path) -> None:
    code = "import sae_dist; print(sae_dist.__file__)"  # and nothing else, which would take seconds
    done = run(installed, "python", "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    package = Path(done.stdout.strip()).parent
    assert (
        package.is_relative_to(installed) and (package / "conf" / "coder" / "topk.yaml").is_file()
    )


@pytest.mark.slow
def test_commands_complete_and_take_own_files(installed: Path, tmp_path: Path) -> None:
    script = "source <(sae-dist completion bash); complete -p sae-dist; declare -f _sae_dist"
    done = run(installed, "bash", "-c", script, cwd=tmp_path)
    assert "-F _sae_dist sae-dist" in done.stdout and "+experiment=quickstart" in done.stdout
    (tmp_path / "mine.yaml").write_text("train: {coder: topk, coder.k: 7, store: s, run: mine}\n")
    (tmp_path / "own" / "coder").mkdir(parents=True)
    (tmp_path / "own" / "coder" / "wide.yaml").write_text(
        "# @package _global_\ndefaults: [topk]\ncoder: {num_latents: 99}\n"
    )
    own = ("+experiment=./mine.yaml", "hydra.searchpath=[own]", "coder=wide")
    done = run(installed, "python", "-m", "sae_dist", "train", "--cfg", *own, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in ("  k: 7\n", "  num_latents: 99\n", "run: mine\n"))
