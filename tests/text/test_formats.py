"""What is read of files: the column asked for alone, whatever they are called and hold besides."""

import bz2
import csv
import gzip
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sae_dist.common.errors import UserError
from sae_dist.text import TextConfig, documents

Row = dict[str, Any]
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": lambda data: pa.Codec("zstd").compress(data, asbytes=True),
}


def as_csv(rows: list[Row], delimiter: str = ",") -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_parquet(rows: list[Row]) -> bytes:
    data = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), data)
    return data.getvalue()


WRITE: dict[str, Callable[[list[Row]], bytes]] = {
    ".jsonl": lambda rows: "".join(json.dumps(row) + "\n" for row in rows).encode(),
    ".ndjson": lambda rows: "\r\n\r\n".join(json.dumps(row) for row in rows).encode("utf-8-sig"),
    ".json": lambda rows: json.dumps(rows, indent=1).encode(),
    ".csv": as_csv,
    ".tsv": lambda rows: as_csv(rows, "\t"),
    ".parquet": as_parquet,
}


def write(path: Path, rows: list[Row]) -> None:
    """`rows` in the format that the name tells."""
    stem, last = os.path.splitext(path.name)
    compress = COMPRESS.get(last)
    data = WRITE[os.path.splitext(stem)[1] if compress else last](rows)
    path.write_bytes(compress(data) if compress else data)


def read(path: Path, **config: Any) -> list[Any]:
    found = list(documents(TextConfig(path=str(path), **config)))
    return [item.tolist() if isinstance(item, np.ndarray) else item for item in found]


CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
SHAPES: dict[str, tuple[list[Row], str, list[Any]]] = {
    "texts": (
        [{"text": "één\n“two”, three", "n": 1}, {"text": "", "n": 2}, {"text": "four", "n": 3}],
        "text",
        ["één\n“two”, three", "four"],
    ),
    "null, then text, in another column": (
        [{"body": "a", "url": None}] * 3 + [{"body": "b", "url": "u"}],
        "body",
        ["a", "a", "a", "b"],
    ),
    "null in the column": ([{"text": None, "n": 1}, {"text": "a", "n": 2}], "text", ["a"]),
    "messages": ([{"messages": CHAT, "n": 1}], "messages", [CHAT]),
    "from and value": (
        [{"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]}],
        "conversations",
        [CHAT],
    ),
    "ids": ([{"input_ids": [5, 6, 7]}, {"input_ids": []}, {"input_ids": [8]}], "input_ids",
            [[5, 6, 7], [8]]),
}  # fmt: skip
FLAT = (".csv", ".tsv")  # they hold nothing but strings


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("suffix", WRITE)
def test_every_format_holds_every_shape(tmp_path: Path, suffix: str, shape: str) -> None:
    rows, column, expected = SHAPES[shape]
    path = tmp_path / f"a[1] ?*{suffix}"
    write(path, rows)
    if suffix in FLAT and not isinstance(expected[0], str):
        assert isinstance(read(path, column=column)[0], str)
    else:
        assert read(path, column=column) == expected
    assert read(tmp_path, column=column) == read(path, column=column)
    with pytest.raises(UserError, match=r"no column `nope`, only .*; set text.column") as caught:
        read(path, column="nope")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("suffix", [suffix for suffix in WRITE if suffix != ".parquet"])
def test_compression_is_beside_the_format(tmp_path: Path, suffix: str, compression: str) -> None:
    rows, _, expected = SHAPES["texts"]
    path = tmp_path / f"a{suffix}{compression}"
    write(path, rows)
    assert read(path) == expected
    path.write_bytes(path.read_bytes() * 2)  # members one after another, as cat makes them
    if suffix == ".jsonl":
        assert read(path) == expected * 2
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match="unreadable"):
        read(path)


def test_a_compressed_text_is_a_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"one\r\ntwo"))
    assert read(tmp_path) == ["one\r\ntwo"]


@pytest.mark.parametrize("has_splits", [False, True])
def test_a_folder_that_datasets_saved(tmp_path: Path, has_splits: bool) -> None:
    rows, _, expected = SHAPES["texts"]
    data = datasets.Dataset.from_list(rows)
    whole = datasets.DatasetDict(train=data, test=data.select([2])) if has_splits else data
    whole.save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "more.jsonl").write_text('{"text": "more"}')
    assert read(tmp_path / "saved") == expected
    assert read(tmp_path) == ["more", *expected]
    with pytest.raises(UserError, match=r"no column `body`, only \['n', 'text'\]"):
        read(tmp_path / "saved", column="body")
    if has_splits:
        assert read(tmp_path / "saved", split="test") == ["four"]
        with pytest.raises(UserError, match=r"no split `dev`.*only \['test', 'train'\]"):
            read(tmp_path / "saved", split="dev")


@pytest.mark.parametrize(
    ("content", "column", "expected"),
    [
        ('{"text": "a"}\n{"text": "b"}', "text", ["a", "b"]),
        ('{\n "text": "a"\n}\n{\n "text": "b"\n}\n', "text", ["a", "b"]),
        ('{"text": ["a", null, "b"], "n": [1, 2, 3]}', "text", ["a", "b"]),
        ('{"version": 1, "data": [{"text": "a"}, {"text": "b"}]}', "text", ["a", "b"]),
        ('{"input_ids": [1, 2]}', "input_ids", [[1, 2]]),
        ('{"input_ids": [[1, 2], [3]]}', "input_ids", [[1, 2], [3]]),
        (json.dumps({"messages": CHAT}), "messages", [CHAT]),
        (json.dumps([{"text": "x" * 3_000_000}, {"text": "y" * 10}]), "text",
         ["x" * 3_000_000, "y" * 10]),
    ],
)  # fmt: skip
def test_a_json_file_is_rows_or_columns(
    tmp_path: Path, content: str, column: str, expected: list[Any]
) -> None:
    (tmp_path / "a.json").write_text(content)
    assert read(tmp_path / "a.json", column=column) == expected


def test_a_half_of_a_surrogate_pair_becomes_the_replacement_character(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(r'{"text": "a \ud83d b \ud83d\ude00"}')
    assert read(tmp_path) == ["a � b 😀"]


def test_columns_of_other_files_and_rows_are_not_looked_at(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"text": "one", "url": "u"}, {"text": "two", "url": 5}])
    write(tmp_path / "b.jsonl", [{"text": "three", "source": {"deep": [1, "x"]}}])
    write(tmp_path / "c.parquet", [{"text": "four", "n": 5}])
    write(tmp_path / "d.parquet", [{"text": "five", "n": "x"}])
    assert read(tmp_path) == ["one", "two", "three", "four", "five"]


def test_hidden_files_are_no_text_and_links_are_followed_once(tmp_path: Path) -> None:
    root, other = tmp_path / "root", tmp_path / "other"
    for folder in (root / ".ipynb_checkpoints", root / "b", other):
        folder.mkdir(parents=True)
    for path in (".ipynb_checkpoints/a.txt", "._a.txt", "b/.hidden.jsonl"):
        (root / path).write_text("WRONG")
    (root / "dataset_infos.json").write_text('{"text": "WRONG"}')
    (root / "a.jsonl").write_text('{"text": "1"}')
    (root / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "2"}'))
    (root / "b" / "a.txt").write_text("3")
    (root / "b" / "loop").symlink_to(root)
    (root / "b.txt").write_text("4")
    (other / "a.txt").write_text("5")
    (root / "linked").symlink_to(other)
    (root / "linked_again").symlink_to(other)
    (root / "z.txt").symlink_to(root / "b.txt")
    (root / "broken.txt").symlink_to(root / "nowhere")
    assert read(root) == ["1", "2", "3", "4", "5"]
    assert read(root / "linked_again") == ["5"]
    assert read(root / ".ipynb_checkpoints") == ["WRONG"]


BAD: list[tuple[str, bytes, str]] = [
    ("a.jsonl", b"", "no text in"),
    ("a.jsonl", b'{"text": "a"}\n{"te', "no JSON in .*a.jsonl, line 2"),
    ("a.jsonl", b'{"text": "a"}\n\n{"txt": 1}', r"only \['txt'\] in .*a.jsonl, line 3"),
    ("a.jsonl", b'{"text": "a"}\n["b"]', "list instead of an object in .*a.jsonl, line 2"),
    ("a.jsonl", b'{"text": "\xff"}', "no JSON in .*, line 1"),
    ("a.jsonl", b'{"text": 5}', "found int in column `text` of .*a.jsonl, line 1"),
    ("a.jsonl", b"[" * 100_000, "no JSON in .*, line 1"),
    ("a.jsonl", b'{"text": [1.5]}', "found a list of float in column `text`"),
    ("a.jsonl", b'{"text": [true]}', "found a list of bool in column `text`"),
    ("a.jsonl", b'{"text": [[1], [2, 3]]}', "found a list of list in column `text`"),
    ("a.jsonl", b'{"text": [3, -1]}', "found token id -1 in column `text`"),
    ("a.jsonl", b'{"text": [1e3, 99999999999]}', "found a list of float in column `text`"),
    ("a.jsonl", b'{"text": [99999999999]}', "found token id 99999999999 in"),
    ("a.jsonl", b'{"text": [{"who": "me"}]}', r"a message with \['who'\] in .*expected `role`"),
    ("a.jsonl", b'{"text": [{"role": "user"}, 5]}', "a message that is int"),
    ("a.json", b'[{"text": "a"}, {"te', "a.json unreadable"),
    ("a.json", b"[5]", "int instead of an object in .*a.json, row 1"),
    ("a.json", b"[]", "no text in"),
    ("a.csv", b"", "no text in"),
    ("a.csv", b"n,text\n1,a\n2\n", "1 of 2 fields in .*a.csv, line 3"),
    ("a.csv", b"text\n\xff\n", "unreadable .*UTF-8"),
    ("a.parquet", as_parquet([{"text": "a"}])[:-9], "a.parquet unreadable"),
    ("a.parquet", b"", "a.parquet unreadable"),
    ("a.txt", b"", "no text in"),
    ("a.pdf", b"x", "expected .txt, .jsonl"),
    ("a.parquet.gz", b"x", "expected .txt, .jsonl"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "said"), BAD)
def test_what_is_no_text_is_told_in_one_line_with_its_place(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        read(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_parquet_without_rows_is_told(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="no text in .*a.parquet"):
        read(tmp_path / "a.parquet")
