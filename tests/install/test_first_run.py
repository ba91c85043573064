"""A wheel, installed outside of the checkout: from text to coders that SAELens loads, one script.

The environment has sae_dist from the wheel alone, and its dependencies from the environment that
runs the tests, through a `.pth` file (`environment.py`): downloading them again would take minutes.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.apps.commands import ROOT
from tests.install.environment import run
from tests.interop.measure import python

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(python() is None, reason="no SAELens: run `make test-interop`"),
]
OURS = """
import pathlib

import numpy as np
import sae_dist
import torch
from sae_dist.common.dtypes import from_storage

store = sae_dist.open_store("runs/first/store")
acts = from_storage(store.read_rows("resid_post.1", 0), store.dtype)
x = torch.as_tensor(acts).float()[:512]
np.save("x.npy", x.numpy())
with torch.no_grad():
    for folder in pathlib.Path("runs/first/coders").iterdir():
        coder = sae_dist.load_coder(folder)
        np.savez(f"{folder.name}.ours.npz", acts=coder.encode(x).numpy(), y=coder(x).numpy())
"""


def test_from_text_to_saelens(installed: Path, tmp_path: Path) -> None:
    saelens = str(Path.cwd() / str(python()))  # make names it within the checkout
    assert not tmp_path.resolve().is_relative_to(ROOT)
    run(installed, "sae-dist", "files", cwd=tmp_path).check_returncode()
    script = "launch/first_run.sh"
    done = run(installed, script, cwd=tmp_path, timeout=3600, SAELENS_PYTHON=saelens)
    assert done.returncode == 0, done.stderr
    home = tmp_path / "runs" / "first"
    rungs = sorted(path.name for path in (home / "coders").iterdir())
    assert len(rungs) == 2 == done.stdout.count("SAELens loads")
    assert sorted(path.parent.name for path in home.glob("evaluation/*/coder.json")) == rungs
    assert all(name in (home / "report" / "index.html").read_text() for name in rungs)

    run(installed, "python", "-c", OURS, cwd=tmp_path).check_returncode()
    jobs = [
        {"folder": f"runs/first/exports/saelens/{name}", "x": "x.npy", "out": f"{name}.npz"}
        for name in rungs
    ]
    (tmp_path / "jobs.json").write_text(json.dumps({"client": "saelens", "jobs": jobs}))
    client = str(ROOT / "tests" / "interop" / "clients.py")
    run(installed, saelens, client, "jobs.json", cwd=tmp_path).check_returncode()
    for name in rungs:
        ours, theirs = np.load(tmp_path / f"{name}.ours.npz"), np.load(tmp_path / f"{name}.npz")
        alike_B = ((ours["acts"] > 0) == (theirs["acts"] > 0)).all(1)  # all but ties with an edge
        assert alike_B.mean() > 0.99
        for key in ("acts", "y"):
            expected = ours[key][alike_B]
            most = np.abs(expected).max()
            assert most > 0
            np.testing.assert_allclose(theirs[key][alike_B], expected, rtol=0, atol=1e-5 * most)
