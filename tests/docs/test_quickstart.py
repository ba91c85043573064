"""`launch/quickstart.sh`: which commands it gives, to programs that only write down their words."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.apps.commands import ROOT

_STAND_IN = """#!/bin/bash
echo "${0##*/} $*" >> calls
[ "$1" = fetch ] && exit "${FETCHED:-0}"
run=quickstart; [[ "$*" = *scratch* ]] && run=quickstart_scratch
case "$*" in
  small_lm*) mkdir -p runs/$run/lm ;;
  *harvest.py*) mkdir -p runs/$run/store && touch runs/$run/store/MANIFEST.json ;;
  *train.py*) mkdir -p runs/$run/coders ;;
  *latents*) mkdir -p runs/$run/latents && touch runs/$run/latents/index.html ;;
  *report*) mkdir -p runs/$run/report && touch runs/$run/report/index.html ;;
esac
"""


def quickstart(home: Path, **settings: str) -> tuple[list[str], str]:
    """The commands that it gives in a folder, and what it says."""
    programs = home / ".venv" / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    (home / "launch").mkdir(exist_ok=True)
    shutil.copy(ROOT / "launch" / "quickstart.sh", home / "launch")
    for name in ("sae-dist", "accelerate", "torchrun"):
        (programs / name).write_text(_STAND_IN)
        (programs / name).chmod(0o755)
    (home / "calls").write_text("")
    done = subprocess.run(
        [home / "launch" / "quickstart.sh"],
        env={"PATH": os.environ["PATH"], **settings},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return (home / "calls").read_text().splitlines(), done.stderr


@pytest.mark.parametrize(
    ("settings", "run", "first"),
    [
        ({}, "quickstart", ["fetch"]),
        ({"LM": ""}, "quickstart", ["fetch"]),  # as make hands it on
        ({"LM": "scratch"}, "quickstart_scratch", ["small_lm"]),
        ({"FETCHED": "2"}, "quickstart_scratch", ["fetch", "small_lm"]),
    ],
)
def test_it_takes_the_real_language_model_where_it_can(
    settings: dict[str, str], run: str, first: list[str], tmp_path: Path
) -> None:
    calls, said = quickstart(tmp_path, **settings)
    given = [call.split()[1] for call in calls if call.startswith("sae-dist")]
    assert given == [*first, "report"]
    assert ("from scratch, as with make quickstart LM=scratch" in said) == ("FETCHED" in settings)
    named = [call for call in calls if " fetch " not in call]
    assert len(named) == 6 - (run == "quickstart")
    assert all(run in call.replace("=", " ").replace("/", " ").split() for call in named)
    again, _ = quickstart(tmp_path, **settings)
    assert again == [call for call in calls if "FETCHED" in settings and " fetch " in call]
