"""Read W&B's own files back: records of its protocol in LevelDB's log format."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

_HEADER, _BLOCK = 7, 32768
_WHOLE, _LAST = 1, 4
_PATIENCE = 60.0  # seconds for W&B's own process to write what a run has finished


def records(path: Path) -> list[Record]:
    """The records of the `.wandb` file of a finished run."""
    end = time.monotonic() + _PATIENCE
    while True:
        found = list(_written(path))
        if any(record.HasField("exit") for record in found):
            return found
        assert time.monotonic() < end, f"{path} is not finished"
        time.sleep(0.1)


def _written(path: Path) -> Iterator[Record]:
    """The records that are there so far."""
    data, parts = path.read_bytes(), []
    assert data[:4] == b":W&B"
    place = _HEADER
    while place < len(data):
        if (left := _BLOCK - place % _BLOCK) < _HEADER:  # no header fits: the block is filled up
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts.append(data[place + _HEADER : place + _HEADER + length])
        place += _HEADER + length
        if place > len(data):  # a block is being written
            return
        if kind in (_WHOLE, _LAST):
            yield Record.FromString(b"".join(parts))
            parts = []


def run_of(path: Path) -> Any:
    """What a file says of its run: `run_id`, `run_group`, `project`, `display_name`, `config`."""
    return next(record.run for record in records(path) if record.HasField("run"))


def config_of(path: Path) -> dict[str, Any]:
    """The configuration that the run began with."""
    items = run_of(path).config.update
    return {item.key: json.loads(item.value_json) for item in items if item.key != "_wandb"}


def history_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, in order, as W&B would be sent them."""
    rows = []
    for record in records(path):
        if record.HasField("history"):
            row: dict[str, Any] = {}
            for item in record.history.item:
                *outer, last = item.nested_key or [item.key]
                place = row
                for key in outer:
                    place = place.setdefault(key, {})
                place[last] = json.loads(item.value_json)
            rows.append(row)
    return rows


def expected_history(metrics: Path, rung: str) -> list[dict[str, Any]]:
    """The rows that W&B should have of a rung, by what `metrics.jsonl` says."""
    rows: dict[int, dict[str, Any]] = {}
    for line in map(json.loads, metrics.read_text().splitlines()):
        step, whose = line.pop("step"), line.pop("rung")
        if whose in (rung, None):
            row = rows.setdefault(step, {"_step": step})
            for name, value in line.items():
                if isinstance(value, dict):
                    bins = {"bins": value["edges_log10"], "values": value["counts"]}
                    row |= {name: {"_type": "histogram", **bins}, f"{name}/never": value["never"]}
                else:
                    row[name] = value
    return list(rows.values())


def without_clock(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without what W&B adds of its own."""
    added = ("_timestamp", "_runtime", "_wandb")
    return [{name: row[name] for name in row if name not in added} for row in rows]
