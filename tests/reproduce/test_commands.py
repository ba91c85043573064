"""The two commands of `make reproduce` itself, and the whole of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from examples.reproduce import __main__ as claims
from examples.reproduce import conversations
from examples.reproduce.claims import CLAIMS
from examples.reproduce.tables import BEGIN, END
from sae_dist.apps import cli
from sae_dist.apps.fetch import fetch
from sae_dist.common.errors import UserError
from sae_dist.evaluate import read_evaluation
from sae_dist.evaluate.results import ABOUT, VERSION, run_path, rung_path, write_record
from tests.apps.commands import ROOT
from tests.reproduce.made_up import evaluation, rung

SOURCE = '''
def double_{0}(x):
    """Return twice the number, whatever it is."""
'''
CHAT = ["chat", "--sources", "sources"]
DOCUMENT = f"# Claims\n\n{BEGIN}\n\nNot run yet.\n\n{END}\n"


def write_sources(folder: Path) -> None:
    folder.mkdir()
    for number in range(16):
        (folder / f"{number:02}.txt").write_text(SOURCE.format(number))


def test_conversations_are_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["conversations", *CHAT])
    write_sources(tmp_path / "sources")
    conversations.main()
    assert (
        "14 conversations in chat/train.jsonl, 2 in chat/prompts.jsonl" in capsys.readouterr().err
    )
    rows = [json.loads(line) for line in (tmp_path / "chat/train.jsonl").read_text().splitlines()]
    said = "### Model\nReturn twice the number, whatever it is."
    assert rows[0] == {"text": f"### User\nWhat does this do?\ndef double_0(x):\n{said}"}
    prompts = (tmp_path / "chat/prompts.jsonl").read_text().splitlines()
    asked = [json.loads(line)["prompt"] for line in prompts]
    assert asked == [f"What does this do?\ndef double_{number}(x):" for number in (7, 15)]
    conversations.main()
    assert "nothing to do" in capsys.readouterr().err


def test_too_few_conversations_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    write_sources(tmp_path / "sources")
    monkeypatch.setattr("sys.argv", ["conversations", *CHAT, "--held-out-every", "20"])
    with pytest.raises(SystemExit, match="2"):
        conversations.main()
    assert "found 16 texts to ask about in sources" in capsys.readouterr().err
    assert not (tmp_path / "chat").exists()


def test_a_document_gets_claims_facts_and_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, fvu in enumerate((0.10, 0.12, 0.14)):
        run = tmp_path / f"seed-{seed}"
        run.mkdir(parents=True)
        found = evaluation(narrow=rung(256, 8.0, 0.2), wide=rung(512, 8.0, fvu))
        write_record(run_path(run, ABOUT), {"version": VERSION, "run": "made-up"})
        for name, figures in found["rungs"].items():
            write_record(rung_path(run, name, "coder"), {"of": {}, "figures": figures})
        if seed < 2:
            write_record(run_path(run, "forms"), {"of": {}, "figures": {"rows": []}})
    (tmp_path / "commands.tsv").write_text("60\tpython a.py\n5\tpython b.py\n1\tpython a.py\n")
    (tmp_path / "document.md").write_text(DOCUMENT)
    given = ["real", ".", "document.md", "--results", "results", "seed-0", "seed-1", "seed-2"]
    monkeypatch.setattr("sys.argv", ["claims", *given])
    claims.main()
    said = capsys.readouterr().err
    assert "Wider is better at equal L0: reconstruction: holds" in said
    text = (tmp_path / "document.md").read_text()
    assert text.startswith("# Claims\n") and "Not run yet" not in text
    assert "| runs |  | 2 seeds (seed-0, seed-1) of 2 coders each" in text  # one is half evaluated
    assert "| time |  | 1.1 minutes for all commands |" in text
    assert "| 61 | `python a.py` |\n| 5 | `python b.py` |" in text

    claims.fill_in(Path("document.md"), Path("results"))  # what was kept gives the same
    assert (tmp_path / "document.md").read_text() == text
    monkeypatch.setattr("sys.argv", ["claims", *given[:-3], "seed-2"])
    with pytest.raises(SystemExit, match="2"):
        claims.main()
    assert "found no evaluation in seed-2; expected an evaluated run" in capsys.readouterr().err


def test_the_shipped_document_has_what_was_kept(tmp_path: Path) -> None:
    shipped = (ROOT / "docs/reproduction.md").read_text()
    (tmp_path / "document.md").write_text(shipped)
    claims.fill_in(tmp_path / "document.md", ROOT / "examples/reproduce/results")
    assert (tmp_path / "document.md").read_text() == shipped


def skip_where_it_cannot_be_had() -> None:
    asked = ["lm=smollm2_135m", "text=public_domain"]
    try:
        fetch(cli.to_dataclass(cli.compose_config("fetch", asked)))
    except UserError as error:
        pytest.skip(f"offline: {error}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "column", "seeds", "num_coders", "width"),
    [("small", 1, 2, 27, 512), ("real", 2, 1, 21, 1024)],
)
def test_the_whole_of_it_at_a_tiny_scale(
    which: str, column: int, seeds: int, num_coders: int, width: int, tmp_path: Path
) -> None:
    if which == "real":
        skip_where_it_cannot_be_had()
    settings = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "REPRODUCE_SCALE": "tiny",
        "REPRODUCE_HOME": str(tmp_path),
        "WANDB_MODE": "disabled",
    }
    command = [ROOT / "examples/reproduce/run.sh", which]
    for _ in range(2):  # the second finds all there
        done = subprocess.run(command, env=settings, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-4000:]
    text = (tmp_path / "reproduction.md").read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    (runs,) = (row for row in rows if row[0] == "| runs")
    assert f"of {num_coders} coders each" in runs[column]
    found = [read_evaluation(tmp_path / f"seed-{seed}") or {} for seed in range(seeds)]
    assert [len(one["rungs"]) for one in found] == [num_coders] * seeds
    unjudged = {"Transcoders' latents are easier to explain", "… by a judge who can tell"}
    unmeasured = {claim.title for claim in CLAIMS if not claim.over(found)}
    assert unmeasured == (unjudged if which == "small" else set())
    assert {(row["num_latents"], row["k"]) for row in found[0]["of_run"]["forms"]["rows"]} == {
        (width, 8),
        (width, 32),
    }
    assert {row["trained_on"] for row in found[0]["of_run"]["transfer"]["rows"]} == {
        *("base", "finetuned")
    }
