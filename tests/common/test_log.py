"""Progress where it is read: on a terminal in place, in a file a line every half minute."""

import io
import sys

import pytest
from tqdm import std

from sae_dist.common.log import log_info, progress, write_error


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(std, "time", clock)
    monkeypatch.setattr(std.tqdm, "monitor_interval", 0)  # no thread with a clock of its own
    return clock


def test_a_file_has_a_line_every_half_minute_with_rate_and_time_left(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress(total=1000, desc="train", unit="step") as bar:
        for _ in range(100):  # two steps a second
            clock.now += 0.5
            bar.update()
        log_info("a message")
        bar.set_postfix_str("FVU 0.1")
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("|")[0] for line in lines] == [
        *("train:   0%", "train:   6%", "a message", "train:  10%"),
    ]
    assert "60/1000 [00:30<07:50,  2.00step/s]" in lines[1]
    assert "100/1000 [00:50<07:30,  2.00step/s, FVU 0.1]" in lines[-1]


def test_an_error_has_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(total=10):
        write_error("wrong")
    assert "error: wrong" in capsys.readouterr().err.splitlines()


def test_a_terminal_has_one_line(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress(total=10) as bar:
        clock.now += 60
        bar.update(5)
        write_error("wrong")
        bar.update(5)
    written = terminal.getvalue()
    assert "\nerror: wrong\n" in written and written.count("\n") == 3 and "\r" in written
