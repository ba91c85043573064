"""Help, completion and every refusal come before anything heavy is imported."""

import sys
from pathlib import Path

import pytest

from sae_dist.apps.console import COMMANDS
from tests.apps.commands import command
from tests.apps.test_cli import GIVEN

HEAVY = {"torch", "transformers", "datasets", "wandb", "matplotlib", "zarr", "scipy", "accelerate"}
REFUSED = [  # what a command answers before it is loaded
    *([name, "typo=1"] for name in COMMANDS),
    *(
        [name, *GIVEN[name]]
        for name in ("evaluate", "latents", "export", "report", "dashboard", "compare")
    ),
    ["train", "store=nowhere", "run=r"],
    ["train", "source=decoder", "decoder=nowhere", "run=r"],
    ["train", "store=live", "run=r", "harvest.typo=1"],
    ["train", "store=s", "run=../r"],
    ["train", "store=s", "run=r", "coder=relu"],
    ["verify", "store=nowhere"],
    ["harvest", "store=s", "sites=[]", "lm=pythia_70m", "text=fineweb"],
    ["harvest", "store=s", "sites=[embed]", "lm.name=./nowhere", "text=fineweb"],
    ["plan", "harvest.typo=1"],
    ["import_coder", "path=there", "to=."],
    ["explain", "run=r", "judge=oracle"],
    ["explain", "run=r", "judge=local", "judge.model=./nowhere"],
    ["explain", "run=r", "judge.model=m", "judge.base_url=http://here", "examples.min_windows=9"],
    ["selftest", "folder=nowhere"],
]
ANSWERED = [
    *([name, "--help"] for name in COMMANDS),
    *([name, *GIVEN[name], "--cfg"] for name in COMMANDS),
    ["completion", "bash"],
]
SCRIPT = """
import contextlib, io, sys
from sae_dist.apps.console import main
for arguments, status in {calls}:
    sys.argv = ["sae-dist", *arguments]
    said, ended = io.StringIO(), 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main()
        except SystemExit as ending:
            ended = ending.code
    assert ended == status, (arguments, ended, said.getvalue())
    loaded = {heavy} & sys.modules.keys()
    assert not loaded, (arguments, loaded)
print("light")
"""


def test_nothing_heavy_is_imported_to_help_complete_or_refuse(tmp_path: Path) -> None:
    calls = [*((call, 0) for call in ANSWERED), *((call, 2) for call in REFUSED)]
    done = command("-c", SCRIPT.format(calls=calls, heavy=HEAVY), cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("light\n", 0), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_packages_give_their_names_when_asked() -> None:
    import sae_dist.store
    import sae_dist.store.verify as named

    assert callable(sae_dist.store.verify) and named is sae_dist.store.verify
    assert sys.modules["sae_dist.store.verify"].verify is named
    assert set(sae_dist.store.__all__) <= set(dir(sae_dist.store))
    with pytest.raises(AttributeError, match="module 'sae_dist.store' has no attribute 'typo'"):
        sae_dist.store.typo  # noqa: B018
