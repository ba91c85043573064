"""The start's and the guides' commands, really run: each page's in order, at a tiny size, and after
them those of a page that goes on from there.

What another machine or Slurm is needed for is left out, and what installs (`pip`, `git`, `make`,
`--nnodes`, `sbatch`); so is the selftest, which tests/apps/test_selftest.py runs. A page that
fetches something is skipped from there on where there is no network.
"""

import importlib.util
from pathlib import Path

import pytest

from tests.apps.commands import ROOT, command
from tests.docs.shell import calls_in
from tests.docs.test_snippets import snippets
from tests.docs.tiny import is_small, prepare, tiny

PAGES = [ROOT / "docs" / "start.md", *sorted((ROOT / "docs" / "guides").glob("*.md"))]
GOES_ON = {"one_gpu": "lm_loss"}
HAS_ZERO3 = importlib.util.find_spec("deepspeed")


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [
        page
        for page in PAGES
        if any(map(is_small, calls_in(page))) and page.stem not in GOES_ON.values()
    ],
    ids=lambda page: page.stem,
)
def test_the_commands_of_a_page_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path)
    if "write_store(" in snippets(page):  # the commands go on from what the Python made
        monkeypatch.chdir(tmp_path)
        exec(snippets(page), {})
    calls = calls_in(page)
    if page.stem in GOES_ON:
        calls += calls_in(page.with_stem(GOES_ON[page.stem]))
    for call in filter(is_small, calls):
        words = tiny(call)
        if "launch/accelerate/zero3.yaml" in words and not HAS_ZERO3:
            continue
        done = command(*words, cwd=tmp_path, DS_ACCELERATOR="cpu", TOKENIZERS_PARALLELISM="false")
        if done.returncode == 2 and "come back with a network" in done.stderr:
            pytest.skip("offline: what this page goes on to read cannot be fetched")
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stderr[-4000:]}"


def test_most_commands_of_the_pages_are_run() -> None:
    assert sum(is_small(call) for page in PAGES for call in calls_in(page)) >= 40
