"""Text that a package index has: fetched once, known by its checksum, and told before."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

import sae_dist
from sae_dist.common.errors import UserError
from sae_dist.common.packages import sha256_of
from sae_dist.config import FetchConfig
from sae_dist.lm import LMConfig
from sae_dist.text import TextConfig, documents, pin, public_domain
from sae_dist.text.public_domain import _Wheel
from tests.harvest.tiny import tokenizer
from tests.lm.test_packages import write_wheel
from tests.lm.tiny import tiny_model

CONFIG = TextConfig(path="public_domain")
SPEECH = "\n\n".join(f"{number}: " + "my fellow\ncitizens " * 60 for number in range(4))
COUNTRY = {
    "Government": {"Country name": {"conventional short form": {"text": "Ruritania"}}},
    "Geography": {
        "Area": {"land": {"text": "7 sq km &amp; more"}, "note": "<b>note:</b> small"},
        "Climate": {"text": "<p>mild</p>"},
    },
}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index of one speech and one country, and an empty cache."""
    folder = tmp_path / "index"
    folder.mkdir()
    write_wheel(folder, "speeches", "1790.txt", SPEECH.encode())
    write_wheel(folder, "countries", "rr.json", json.dumps(COUNTRY).encode())
    wheels = [
        _Wheel(f"{name}==1.0", sha256_of(folder / f"{name}-1.0-py3-none-any.whl"))
        for name in ("speeches", "countries")
    ]
    monkeypatch.setattr(public_domain, "WHEELS", wheels)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def test_speeches_and_countries_come_by_turns_as_plain_text(
    index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = list(documents(CONFIG))
    told = capsys.readouterr().err
    assert told.count("public domain") == 2 and "speeches==1.0" in told and "5 MB" in told
    for wheel in index.iterdir():
        wheel.unlink()
    assert list(documents(CONFIG)) == found and capsys.readouterr().err == ""
    assert pin(CONFIG) == CONFIG
    speeches, countries = found[::2], found[1::2]
    assert sorted(text[0] for text in speeches) == ["0", "2"]
    assert speeches[0].count("\n\n") == 1 and "fellow citizens my" in speeches[0]
    assert sorted(countries) == [
        "Ruritania: Geography\nArea, land: 7 sq km & more\nArea: note: small\nClimate: mild",
        "Ruritania: Government\nCountry name, conventional short form: Ruritania",
    ]


def test_without_a_network_or_with_another_file_it_is_refused_in_one_line(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = public_domain.WHEELS
    monkeypatch.setattr(public_domain, "WHEELS", [replace(wheels[0], sha256="b" * 64)])
    for said in ("with the SHA-256 .* set text.path", "found no speeches==1.0 .* a network"):
        with pytest.raises(UserError, match=said) as caught:
            list(documents(CONFIG))
        assert "\n" not in str(caught.value)
        (index / "speeches-1.0-py3-none-any.whl").unlink(missing_ok=True)


def test_what_a_harvest_reads_is_fetched_before(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lm = str(tmp_path / "lm")
    tiny_model("llama").save_pretrained(lm)
    tokenizer().save_pretrained(lm)
    assert sae_dist.fetch(FetchConfig(lm=LMConfig(name=lm), text=CONFIG)) == lm
    assert f"found {lm} in {lm}, and text in public_domain" in capsys.readouterr().err


@pytest.mark.slow
def test_the_real_text_is_long_and_varied() -> None:
    """From the user's own cache, so that a second run fetches nothing."""
    try:
        texts = list(islice(documents(CONFIG), 400))
    except UserError as error:
        pytest.skip(f"offline: {error}")
    assert 600_000 < sum(map(len, texts)) < 1_200_000
    words = set(" ".join(texts).split())
    assert {"Congress", "railroad", "sq", "Buddhist", "exports"} <= words
