"""The command: weights larger than memory, and a format that another package brings."""

import os
import re
import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from sae_dist.apps.export import export
from sae_dist.apps.help import help_text, words
from sae_dist.coders import Coder, Form, files, fold
from sae_dist.common.errors import UserError
from sae_dist.config import ExportConfig
from sae_dist.evaluate.registry import measures
from sae_dist.interop import format_named, format_names, load_coder
from sae_dist.interop.formats import FORMATS
from tests.coders.kinds import config_of_kind
from tests.coders.test_coder import trained
from tests.interop.runs import make_run
from tests.processes import start

GUIDE = Path(__file__).parents[2] / "docs/interop.md"
FIGURES = {"l0": 3.0, "fvu": 0.25, "tokens": 1000}
D, F = 1024, 9216
MATRIX = 4 * D * F  # 36 MiB: more than malloc keeps for another time
STATUS = Path("/proc/self/status")


def private_bytes() -> int:
    """Memory of this process that no file backs, or that it might write to."""
    return 1024 * int(re.search(r"VmData:\s+(\d+)", STATUS.read_text())[1])


@pytest.mark.skipif(not STATUS.exists(), reason="no /proc, which says what is held")
@pytest.mark.parametrize("to", format_names())
def test_no_matrix_is_copied(to: str, tmp_path: Path) -> None:
    process = start(export_in_little_memory, to, tmp_path)  # where no freed memory lies about
    process.join(600)
    assert process.exitcode == 0


def export_in_little_memory(to: str, folder: Path) -> None:
    """Export a coder where no room is for another of its matrices, and read it again."""
    os.chdir(folder)
    torch.set_num_threads(1)  # others' stacks would count
    files._BLOCK_BYTES = 1 << 20
    kind = {"sparsify": "topk", "dictionary_learning": "batchtopk"}.get(to, "jumprelu")
    coder = Coder(config_of_kind(kind, num_latents=F, k=4), D, D, pre_bias=False)
    for i, tensor in enumerate(coder.state_dict().values()):
        tensor.copy_(torch.linspace(0, i + 1, tensor.numel()).reshape(tensor.shape))
    make_run(Path("runs/r"), {"big": coder.eval()}, FIGURES)
    measures()  # what is imported takes memory, too
    before = resource.getrlimit(resource.RLIMIT_DATA)
    mapped = 2 * MATRIX + (1 << 20)  # the file of ours: read, not held
    resource.setrlimit(resource.RLIMIT_DATA, (private_bytes() + mapped + MATRIX // 2, before[1]))
    try:
        with pytest.raises(RuntimeError, match="memory"):
            torch.empty(mapped + MATRIX, dtype=torch.uint8)  # what a copy would end in
        exported = export(ExportConfig(run="r", to=to))
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
    found = load_coder(next(exported.rglob(format_named(to).weights)).parent)
    for name in ("W_enc", "W_dec"):
        assert torch.equal(found.state_dict()[name], coder.state_dict()[name])


def test_gemma_scopes_files_are_byte_for_byte_numpys(tmp_path: Path) -> None:
    coder = fold(trained("jumprelu", Form.transcoder)[0], 2.0)
    format_named("gemma_scope").write(tmp_path, coder, {})
    arrays = {name: tensor.numpy() for name, tensor in coder.state_dict().items()}
    np.savez(tmp_path / "expected.npz", **(arrays | {"W_enc": arrays["W_enc"].T}))
    assert (tmp_path / "params.npz").read_bytes() == (tmp_path / "expected.npz").read_bytes()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The guide's format, as pip leaves it."""
    module, entry = re.findall(r"```(?:python|toml)\n(.*?)```", GUIDE.read_text(), re.DOTALL)[-2:]
    (tmp_path / "flat.py").write_text(module)
    about = tmp_path / "flat-0.1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Name: flat\nVersion: 0.1\n")
    group = entry.replace("project.entry-points.", "").replace('"', "")
    (about / "entry_points.txt").write_text(group)
    vars(FORMATS).pop("_homes", None)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    del vars(FORMATS)["_homes"]


@pytest.mark.usefixtures("installed")
def test_a_format_of_another_package_is_one_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    coders = {kind: fold(trained(kind, Form.autoencoder)[0], 2.0) for kind in ("jumprelu", "topk")}
    make_run(Path("runs/r"), coders, FIGURES)
    assert "to=flat" in words("export") and "saelens|sparsify|" in help_text("export")
    assert re.search(r"to: .*\|flat\|delphi", help_text("export"))
    with pytest.raises(UserError, match=r"^to=flt; expected one of saelens, .*; did you mean flat"):
        export(ExportConfig(run="r", to="flt"))
    with pytest.raises(UserError, match="^topk: flat arrays wants a threshold a latent, which Top"):
        export(ExportConfig(run="r", to="flat"))
    folder = export(ExportConfig(run="r", to="flat", rungs=["jumprelu"]))
    x_BD = torch.randn(8, coders["jumprelu"].d_in)
    assert torch.equal(load_coder(folder / "jumprelu")(x_BD), coders["jumprelu"](x_BD))
    card = (folder / "README.md").read_text()
    assert 'W_enc = np.load("jumprelu/W_enc.npy")' in card and "| L0 | FVU |" in card
