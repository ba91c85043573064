"""Files of text: one column of their rows, whatever the others hold, in memory that stays constant.

Every reader yields `(number, value)`: the line or row, counted from 1, and what the column holds.
"""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, count
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from sae_dist.common.errors import UserError

Values = Iterator[tuple[int, Any]]
Placed = Iterator[tuple[str, Any]]
"""Values of a column, and where each stands, in words."""
_BUFFER_BYTES = 1 << 20
BATCH_ROWS = 1024  # of a columnar file, in memory at once


class RowError(ValueError):
    """A row that is not what was expected there."""

    def __init__(self, number: int, found: str, expected: str = "a whole row; mend it") -> None:
        super().__init__(found)
        self.number, self.expected = number, expected


def read_values(open_file: Callable[[], Any], name: str, column: str) -> Placed:
    """Yield what the column holds in a file, whose `name` tells its format.

    Raises UserError, naming the file and line or row, for what cannot be read as that format and
    for a row without the column.
    """
    suffix, compression = _format(name)
    try:
        with open_file() as file:
            stream = pa.input_stream(file, compression=compression) if compression else file
            unit = "line" if suffix in _LINES else "row"
            yield from placed(_READERS[suffix](stream, column), name, unit)
    except (OSError, ValueError, EOFError, RecursionError, csv.Error, pa.ArrowException) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"found {name} unreadable ({reason}); expected a whole {suffix} file in UTF-8; mend it"
        ) from error


def placed(values: Values, name: str, unit: str = "row") -> Placed:
    """The values with their places in what is called `name`. A RowError becomes a UserError."""
    try:
        for number, value in values:
            yield f"{name}, {unit} {number}", value
    except RowError as error:
        place = f"{name}, {unit} {error.number}"
        raise UserError(f"found {error} in {place}; expected {error.expected}") from error


def is_text(name: str) -> bool:
    """Whether a file's name says that it is one of `FORMATS`."""
    suffix, compression = _format(name)
    return suffix in _READERS and not (compression and suffix == ".parquet")


def _format(name: str) -> tuple[str, str | None]:
    """The suffix that says how a file is read, and its compression."""
    suffixes = PurePosixPath(name.lower()).suffixes
    compression = _COMPRESSIONS.get(suffixes[-1]) if suffixes else None
    return "".join(suffixes[-2:-1] if compression else suffixes[-1:]), compression


def require_column(column: str, columns: Iterable[str], number: int) -> None:
    """Raise RowError for row `number` if it has no such column."""
    if column not in columns:
        found = f"no column `{column}`, only {sorted(columns)}"
        raise RowError(number, found, "text; set text.column")


def arrow_values(batches: Iterable[pa.RecordBatch | pa.Table], column: str) -> Values:
    """The values of a column of batches that have it."""
    return enumerate(chain.from_iterable(_unboxed(b.column(column)) for b in batches), 1)


def _unboxed(array: pa.Array | pa.ChunkedArray) -> Iterator[Any]:
    is_list = pa.types.is_list(array.type) or pa.types.is_large_list(array.type)
    if not (is_list and pa.types.is_integer(array.type.value_type)):
        return iter(array.to_pylist())
    rows = (row.values for row in array)
    return (ids if ids is None else ids.to_numpy(zero_copy_only=False) for ids in rows)


def _parquet(file: BinaryIO, column: str) -> Values:
    source = pq.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER_BYTES)
    require_column(column, source.schema_arrow.names, 1)
    yield from arrow_values(source.iter_batches(batch_size=BATCH_ROWS, columns=[column]), column)


def _txt(file: BinaryIO, column: str) -> Values:
    """A text file is one document, as it is, line ends included."""
    yield 1, file.read().decode("utf-8-sig")


def _jsonl(file: BinaryIO, column: str) -> Values:
    for number, line in enumerate(_buffered(file), 1):
        if line.isspace():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RowError(number, "no JSON") from error
        yield number, _field(row, column, number)


def _json(file: BinaryIO, column: str) -> Values:
    """A list of objects, or objects one after another; also an object of columns, or with `data`.

    Of a list, or of objects one after another, one row at a time is in memory.
    """
    numbers = count(1)
    for value in _json_values(io.TextIOWrapper(_buffered(file), encoding="utf-8-sig")):
        if (items := _column_of(value, column)) is not None:
            yield from ((next(numbers), item) for item in items)
            continue
        rows = value.get("data") if isinstance(value, dict) and column not in value else None
        for row in rows if isinstance(rows, list) else [value]:
            number = next(numbers)
            yield number, _field(row, column, number)


def _column_of(value: Any, column: str) -> list[Any] | None:
    """The list in an object of columns; None for a row, which may be of messages or of ids."""
    items = value.get(column) if isinstance(value, dict) else None
    is_row = not isinstance(items, list) or (items and isinstance(items[0], int | dict))
    return None if is_row else items


def _json_values(file: io.TextIOBase) -> Iterator[Any]:
    """The values of a JSON file, those of a list at its top one by one."""
    decode = json.JSONDecoder().raw_decode
    held, at, size, is_list, is_end = "", 0, _BUFFER_BYTES, False, False
    while True:
        at = _after_space(held, at, ",]" if is_list else "")
        if at == len(held) and is_end:
            return
        if at < len(held) and held[at] == "[" and not is_list:
            is_list, at = True, at + 1
            continue
        try:
            value, at = decode(held, at)
        except ValueError:
            if is_end:
                raise
            more = file.read(size)
            held, at, size, is_end = held[at:] + more, 0, size * 2, not more
        else:
            size = _BUFFER_BYTES
            yield value


def _after_space(text: str, at: int, more: str) -> int:
    while at < len(text) and (text[at].isspace() or text[at] in more):
        at += 1
    return at


def _field(row: Any, column: str, number: int) -> Any:
    if not isinstance(row, dict):
        raise RowError(number, f"{type(row).__name__} instead of an object")
    require_column(column, row, number)
    return row[column]


def _csv(file: BinaryIO, column: str, delimiter: str = ",") -> Values:
    csv.field_size_limit(sys.maxsize)
    text = io.TextIOWrapper(_buffered(file), encoding="utf-8-sig", newline="")
    reader = csv.reader(text, delimiter=delimiter)
    header = next(reader, [])
    if not header:
        return
    require_column(column, header, 1)
    at = header.index(column)
    for row in reader:
        if len(row) > at:
            yield reader.line_num, row[at]
        elif row:
            raise RowError(reader.line_num, f"{len(row)} of {len(header)} fields")


def _buffered(file: Any) -> io.BufferedReader:
    return file if isinstance(file, io.BufferedReader) else io.BufferedReader(file, _BUFFER_BYTES)


_READERS: dict[str, Callable[[BinaryIO, str], Values]] = {
    ".txt": _txt,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": partial(_csv, delimiter="\t"),
    ".parquet": _parquet,
}
_LINES = (".jsonl", ".ndjson", ".csv", ".tsv")
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
FORMATS = f"{', '.join(_READERS)} (all but .parquet also {', '.join(_COMPRESSIONS)})"
