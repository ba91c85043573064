"""What the pages' files hold, read as the page's script reads them."""

import base64
import json
import re
import zlib
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

from sae_dist.common.errors import UserError
from sae_dist.latents import Latents
from sae_dist.latents.folder import COLUMNS, RungAbout, write_about, write_tensors
from sae_dist.pages import write, write_index
from sae_dist.pages.ladder import narrower, splits
from sae_dist.pages.packed import packed, write_postings
from tests.latents.made_up import write_made_up
from tests.pages.conftest import TEXTS


def unpacked(script: bytes) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a script, and what it is about."""
    found = re.fullmatch(rb'give\("([A-Za-z0-9+/=]*)"\)\n', script)
    assert found  # nothing that a page could take for anything else
    file = zlib.decompress(base64.b64decode(found[1]))
    size = int.from_bytes(file[:8], "little")
    about = json.loads(file[8 : 8 + size]).get("__metadata__", {})
    return load(file), {key: json.loads(value) for key, value in about.items()}


def read(run: Path, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    return unpacked((run / "latents" / "pages" / f"{name}.js").read_bytes())


def about_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="about">(.*?)</script>', page)
    assert found
    return json.loads(found[1])


def test_arrays_come_back_as_they_were_in_as_few_bytes_as_hold_them() -> None:
    given = {
        "int8": np.array([[-1, 127]]),
        "int16": np.array([128]),
        "int32": np.array([1 << 20], np.int64),
        "float64": np.array([1 << 40]),
        "float32": np.float32([0.1, np.nan]),
        "uint8": np.array([True, False]),
    }
    arrays, about = unpacked(packed(given, starts=[0, 5]))
    assert about == {"starts": [0, 5]}
    for name, array in given.items():
        assert arrays[name].dtype.name == name
        np.testing.assert_array_equal(arrays[name], array)


def test_an_index_is_cut_between_its_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sae_dist.pages.packed._POSTINGS", 2)
    keys = np.array([5, 3, 5, 3, 3, 9])
    least = write_postings(tmp_path / "index", keys, {"latents": np.arange(6)})
    files = [unpacked((tmp_path / f"index/{i}.js").read_bytes())[0] for i in range(len(least))]
    assert least == [3, 5]  # the third entry of 3 would have begun a file
    assert [file["keys"].tolist() for file in files] == [[3, 3, 3], [5, 5, 9]]
    assert [file["latents"].tolist() for file in files] == [[1, 3, 4], [0, 2, 5]]


def test_the_table_and_the_indices_say_what_the_latents_say(made_up: Path) -> None:
    latents = Latents(made_up, "topk-128")
    table, least = read(made_up, "rungs/topk-128/list")
    for name in ("fired", "max"):
        np.testing.assert_array_equal(table[name], latents.column(name))
    np.testing.assert_array_equal(table["cosine"], latents.column("cosine")[:, 0])
    np.testing.assert_array_equal(table["promoted"], latents.column("top_tokens")[:, :3])
    peaks, promoted, text = (
        read(made_up, f"rungs/topk-128/{which}/0")[0] for which in ("peaks", "promoted", "text")
    )
    indices = {"peaks": peaks, "promoted": promoted, "text": text}
    assert least == {name: [index["keys"].min()] for name, index in indices.items()}
    found = {
        (int(k), int(f)): int(c)
        for k, f, c in zip(peaks["keys"], peaks["latents"], peaks["counts"], strict=True)
    }
    expected: dict[tuple[int, int], int] = {}
    for latent in range(128):
        strongest = [one for one in latents.examples(latent) if one.group == 0]
        counted = Counter(int(one.token_ids[one.position - one.start]) for one in strongest)
        shown = [token for token, _ in counted.most_common(3)]  # the first of equals comes first
        assert [token for token in table["peaks"][latent] if token >= 0] == shown
        expected |= {(token, latent): count for token, count in counted.items()}
        places = {(one.sequence, one.position, one.start) for one in strongest}
        own = text["latents"] == latent
        columns = (text[name][own].tolist() for name in ("keys", "positions", "starts"))
        assert set(zip(*columns, strict=True)) == places
    assert found == expected
    assert (np.diff(peaks["keys"]) >= 0).all()
    ranks = zip(promoted["keys"], promoted["latents"], promoted["ranks"], strict=True)
    assert all(latents.row("top_tokens", int(f))[r] == token for token, f, r in ranks)
    assert len(promoted["keys"]) == 128 * 10


def test_a_latent_s_file_holds_all_that_is_known_of_it(made_up: Path) -> None:
    latents = Latents(made_up, "topk-256")
    edges = latents.rung.edges
    assert edges == [0, 128, 256]
    arrays, _ = read(made_up, "rungs/topk-256/latents/192")
    for name in ("values", "examples", "histogram", "sum", "top_logits", "cofiring"):
        np.testing.assert_array_equal(arrays[name], latents.column(name)[192:256])
    nearest, cosine = latents.beside()["topk-64"]
    np.testing.assert_array_equal(arrays["nearest/topk-64"], nearest[192:])
    np.testing.assert_array_equal(arrays["cosine/topk-64"], cosine[192:])


def test_tokens_are_bytes_and_sequences_are_blocks(made_up: Path) -> None:
    arrays, _ = read(made_up, "vocabulary")
    starts = arrays["starts"]
    assert [arrays["bytes"][a:b].tobytes() for a, b in pairwise(starts)] == TEXTS
    tokens = Latents(made_up, "topk-64").token_ids_NS
    np.testing.assert_array_equal(read(made_up, "text/0")[0]["tokens"], tokens)


def test_each_rung_stands_on_the_one_below(made_up: Path) -> None:
    page = (made_up / "latents" / "index.html").read_text()
    below = {rung["rung"]: rung["below"] for rung in about_of(page)["rungs"]}
    assert below == {"topk-64": None, "topk-128": "topk-64", "topk-256": "topk-128"}
    arrays, _ = read(made_up, "rungs/topk-64/parents")
    assert arrays.keys() == {"splits"} and arrays["splits"].tolist() == [2] * 64
    arrays, _ = read(made_up, "rungs/topk-256/parents")
    assert arrays.keys() == {"parents", "cosines"}
    np.testing.assert_array_equal(arrays["parents"], np.arange(256) % 128)
    np.testing.assert_array_equal(arrays["cosines"], np.full(256, 0.9, np.float32))


def test_the_rung_below_is_of_the_same_kind_and_place_and_nearest_in_l0(made_up: Path) -> None:
    own = Latents(made_up, "topk-64").rung

    def rung(name: str, **changes: Any) -> RungAbout:
        return RungAbout(**{**{k: getattr(own, k) for k in own.__struct_fields__}, **changes})

    wide = rung("wide", num_latents=256, l0=20.0)
    others = [
        wide,
        rung("as wide", num_latents=256),
        rung("other kind", num_latents=128, kind="jumprelu", l0=20.0),
        rung("other place", num_latents=128, site="resid_post.9", l0=20.0),
        dense := rung("dense", num_latents=64, l0=40.0),
        rung("narrow", num_latents=32, l0=20.0),
    ]
    assert narrower(wide, others) is dense
    sparse = rung("sparse", num_latents=64, l0=19.0)
    assert narrower(wide, [*others, sparse]) is sparse


def test_a_latent_splits_into_those_that_are_near_enough() -> None:
    kin = [
        {"parents": np.array([0, 2, 2, 1]), "cosines": np.array([0.7, 0.9, 0.69, 0.8], np.float32)},
        {"parents": np.array([2, 2]), "cosines": np.array([0.9, 0.1], np.float32)},
    ]
    assert splits(4, kin)["splits"].tolist() == [1, 1, 2, 0]
    assert splits(4, []) == {}


def test_explanations_stand_beside_their_scores(made_up: Path) -> None:
    arrays, about = read(made_up, "rungs/topk-64/explanations")
    assert about == {
        "scorers": ["detection", "fuzzing"],
        "authors": ["a person, judged by an oracle"],
    }
    assert arrays["latents"].tolist() == list(range(0, 64, 3))
    np.testing.assert_allclose(arrays["scores"][:, 0], np.arange(0, 64, 3) / 100, rtol=1e-6)
    assert np.isnan(arrays["scores"][1, 1]) and arrays["scores"][2, 1] == 0.5
    text = arrays["bytes"][arrays["starts"][1] : arrays["starts"][2]].tobytes()
    assert text == b"numbers that 5 divides <b>"


def test_what_is_of_the_same_latents_is_not_written_again(tmp_path: Path) -> None:
    write_made_up(tmp_path, {"a": 8, "b": 16})
    page = write(tmp_path, None)
    marks = {name: page.parent / f"pages/rungs/{name}/list.js" for name in "ab"}

    def written() -> dict[str, tuple[int, int]]:  # an inode's number may be given again
        return {name: (f.stat().st_ino, f.stat().st_mtime_ns) for name, f in marks.items()}

    before = written()
    write(tmp_path, None)
    assert written() == before
    about = Latents(tmp_path, "b")
    write_about(about.folder / "about.json", about.rung)  # as `sae-dist latents` does at its end
    write(tmp_path, None)
    after = written()
    assert after["a"] == before["a"] and after["b"] != before["b"]


def test_latents_that_never_fire_or_have_no_logits_are_written(tmp_path: Path) -> None:
    write_made_up(tmp_path, {"a": 700})  # some numbers above 500 divide no token
    latents = Latents(tmp_path, "a")
    for own in latents.ranges():
        names = [name for name in COLUMNS if not name.startswith(("top_", "bottom_", "logits_"))]
        columns = {name: latents.column(name, own) for name in names}
        write_tensors(latents.folder / f"{own.start:07d}-{own.stop:07d}.safetensors", columns)
    write(tmp_path, None)
    table, least = read(tmp_path, "rungs/a/list")
    assert "promoted" not in table and set(least) == {"peaks", "text"}
    silent = np.flatnonzero(table["fired"] == 0)
    assert len(silent) > 100 and (table["peaks"][silent] == -1).all()
    assert not (tmp_path / "latents/pages/vocabulary.js").exists()


def test_without_latents_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sae-dist latents run="):
        write(tmp_path, None)


def test_the_page_asks_for_nothing_from_elsewhere_and_links_a_report_that_is_there(
    tmp_path: Path,
) -> None:
    write_made_up(tmp_path, {"a": 8})
    page = write(tmp_path, None).read_text()
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', page)
    assert "report/index.html" not in page
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.html").touch()
    assert '<a href="../report/index.html">' in write_index(tmp_path).read_text()
    assert about_of(write_index(tmp_path).read_text()) == about_of(page)
    (tmp_path / "latents/a/about.json").unlink()
    assert '"rung": "a"' in write_index(tmp_path).read_text()  # as it was
