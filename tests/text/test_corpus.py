import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sae_dist.common.errors import UserError
from sae_dist.text import TextConfig, documents, pin
from tests.text.test_formats import write


def write_jsonl(path: Path, texts: list[str | None]) -> None:
    path.write_text("".join(json.dumps({"text": text, "id": 1}) + "\n" for text in texts))


def test_a_text_file_is_one_document_with_its_line_ends(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("één\r\n\r\ntwo\n".encode())
    assert list(documents(TextConfig(path=str(tmp_path / "a.txt")))) == ["één\r\n\r\ntwo\n"]


def test_a_folder_is_read_in_the_order_of_its_sorted_paths(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.txt").write_text("second")
    write_jsonl(tmp_path / "a.jsonl", ["first"])
    write_jsonl(tmp_path / "c.jsonl", ["third"])
    pq.write_table(pa.table({"text": ["fifth"]}), tmp_path / "deep" / "b.parquet")
    (tmp_path / "deep" / "a.txt").write_text("fourth")
    (tmp_path / "notes.md").write_text("not read")
    found = list(documents(TextConfig(path=str(tmp_path))))
    assert found == ["first", "second", "third", "fourth", "fifth"]


def test_the_embedded_corpus_is_source_code_in_a_fixed_mixed_order() -> None:
    first = list(islice(documents(TextConfig()), 20))
    assert first == list(islice(documents(TextConfig()), 20))
    assert sum("def " in text for text in first) >= 10
    assert all(first)


@pytest.mark.parametrize(
    ("make", "name", "said"),
    [
        (lambda path: None, "missing.txt", "found no "),
        (lambda path: path.mkdir(), "empty", "at least one"),
        (lambda path: path.write_bytes(b"\xff\xfe\xfd"), "latin.txt", "UTF-8"),
    ],
)
def test_a_corpus_that_cannot_be_read_is_told_in_one_line(
    tmp_path: Path, make: Callable[[Path], None], name: str, said: str
) -> None:
    make(tmp_path / name)
    with pytest.raises(UserError, match=said) as caught:
        list(documents(TextConfig(path=str(tmp_path / name))))
    assert "\n" not in str(caught.value)


def make_hub(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[dict]:
    """A Hub that knows one data set, `org/data`, whose files lie in `folder`."""
    import datasets

    real_load, calls = datasets.load_dataset_builder, []

    def load_dataset_builder(path: str, **options: object) -> object:
        calls.append({"path": path, **options})
        return real_load(str(folder))

    def dataset_info(self: object, path: str, *, revision: str | None) -> SimpleNamespace:
        if path != "org/data":
            raise huggingface_hub.errors.OfflineModeIsEnabled("no such data set\nsecond line")
        return SimpleNamespace(sha="c0ffee" if revision is None else f"sha of {revision}")

    monkeypatch.setattr(datasets, "load_dataset_builder", load_dataset_builder)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    return calls


def test_a_hub_data_set_is_pinned_to_a_commit_and_streamed_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_jsonl(tmp_path / "train.jsonl", ["one"])
    write_jsonl(tmp_path / "test.jsonl", ["held out"])
    calls = make_hub(monkeypatch, tmp_path)
    config = pin(TextConfig(path="org/data", subset="small", split="test"))
    assert config == TextConfig(path="org/data", subset="small", split="test", commit="c0ffee")
    assert pin(TextConfig(path="org/data", revision="v2")).commit == "sha of v2"
    assert list(documents(config)) == ["held out"]
    assert calls == [{"path": "org/data", "name": "small", "revision": "c0ffee"}]


@pytest.mark.parametrize("suffix", ["jsonl", "json.gz", "parquet", "csv"])
def test_a_hub_data_set_is_read_by_us_or_by_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    write(tmp_path / f"train.{suffix}", [{"text": "one", "n": 1}, {"text": "two", "n": 2}])
    make_hub(monkeypatch, tmp_path)
    assert list(documents(TextConfig(path="org/data"))) == ["one", "two"]
    with pytest.raises(UserError, match=r"no column `body`, only \['n', 'text'\]") as caught:
        list(documents(TextConfig(path="org/data", column="body")))
    assert "\n" not in str(caught.value)


def test_a_data_set_or_split_that_the_hub_does_not_know_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_jsonl(tmp_path / "train.jsonl", ["one"])
    make_hub(monkeypatch, tmp_path)
    with pytest.raises(UserError, match=r"no such data set\)"):
        pin(TextConfig(path="org/other"))
    with pytest.raises(UserError, match="split"):
        list(documents(TextConfig(path="org/data", split="validation")))


def test_local_and_embedded_corpora_have_nothing_to_pin(tmp_path: Path) -> None:
    for path in ("stdlib", str(tmp_path), "./missing"):
        assert pin(TextConfig(path=path)) == TextConfig(path=path)
