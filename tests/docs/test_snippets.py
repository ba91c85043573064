"""The Python that the documents show, run as it stands, on tiny coders and stores."""

import re
from pathlib import Path

import pytest
import torch
from markdown_it import MarkdownIt

from sae_dist.coders import Form, fold, save_coder
from sae_dist.store import write_store
from tests.apps.commands import ROOT, command
from tests.attach.test_attach import a_coder as coder_of_lm
from tests.coders.test_coder import trained
from tests.docs.shell import documents
from tests.harvest.tiny import tokenizer
from tests.interop.hub import serving
from tests.latents.made_up import write_made_up
from tests.lm.tiny import tiny_model
from tests.train.ladders import make_store

_FILES = ("coder.json", "coder.safetensors")
# What a reader has before the first line: rows of a coder's width, and blocks of activations.
_GIVEN = """
import torch
x = torch.linspace(-1, 1, 30).reshape(5, 6)
blocks = (torch.ones(100, 8) * i for i in range(40))
"""


def snippets(document: Path) -> str:
    """All Python of a document, one after another; a revision `@0123abc…` is the newest."""
    tokens = MarkdownIt().parse(document.read_text())
    shown = [token.content for token in tokens if token.type == "fence" and token.info == "python"]
    return re.sub(r"@\w+…", "@main", "\n".join(shown))


def a_coder(folder: Path) -> None:
    coder = fold(trained("topk", Form.autoencoder)[0], 2.0)
    save_coder(folder, coder, coder.state_dict(), {"site": "in", "target": "in"})


def prepare(folder: Path, code: str) -> None:
    """Make the coders and stores that the code loads, if it does not write them itself."""
    language_models = re.findall(r'LMConfig\(name="([^"]+)"', code)
    for path in re.findall(r'load_coder\("((?!hub:)[^"]+)"', code):
        if language_models:
            coder = coder_of_lm()
            save_coder(folder / path, coder, coder.state_dict(), {})
        else:
            a_coder(folder / path)
    for path in language_models:
        tiny_model("llama").save_pretrained(folder / path)
        tokenizer().save_pretrained(folder / path)
    written = set(re.findall(r'write_store\(\s*"([^"]+)"', code))
    for path in set(re.findall(r'open_store\("([^"]+)"', code)) - written:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        make_store(folder / path, num_tokens=2048)
    for run, rung in re.findall(r'Latents\(Path\("([^"]+)"\), "([^"]+)"\)', code):
        write_made_up(folder / run, {rung: 200})
    for path in re.findall(r'"store=([^"]+)"', code):
        write_store(folder / path, {"resid_post.3": torch.randn(10_000, 8)}, held_out=0.1)


WITH_PYTHON = [path for path in documents() if snippets(path)]
ON_THE_HUB = [path for path in WITH_PYTHON if "hub:" in snippets(path)]
ELSEWHERE = [  # tests/interop or tests/handoff runs it
    path
    for path in WITH_PYTHON
    if re.search("circuit_tracer import|sae_bench|sae_lens", snippets(path))
]
HERE = [path for path in WITH_PYTHON if path not in (*ON_THE_HUB, *ELSEWHERE)]


def test_python_is_found() -> None:
    assert {path.name for path in HERE} >= {"README.md", "start.md", "your_own.md", "in_code.md"}
    assert [path.name for path in ON_THE_HUB] == ["interop.md"]


@pytest.mark.parametrize("document", HERE, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_python_of_a_document_runs(
    document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = snippets(document)
    prepare(tmp_path, code)
    monkeypatch.chdir(tmp_path)
    exec(compile(_GIVEN + code, document, "exec"), {})


@pytest.mark.parametrize("document", ON_THE_HUB, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_python_that_asks_the_hub_runs(document: Path, tmp_path: Path) -> None:
    """In a process of its own: the client looks once, when it is imported, where the Hub is."""
    a_coder(tmp_path / "pushed")
    (tmp_path / "shown.py").write_text(f"import sae_dist\n{_GIVEN}{snippets(document)}")
    with serving() as hub:
        files = {f"RUNG/{name}": (tmp_path / "pushed" / name).read_bytes() for name in _FILES}
        hub.commit("USER/REPO", files)
        done = command("shown.py", cwd=tmp_path, **hub.environment(str(tmp_path / "hub")))
    assert done.returncode == 0, done.stderr
