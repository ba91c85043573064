"""Export, push and load, by the real client against a Hub on this machine."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import pytest
import torch

from sae_dist.coders import Form, fold, load_coder
from sae_dist.coders.files import WEIGHTS
from sae_dist.interop import format_named
from sae_dist.interop import load_coder as load_any
from tests.coders.test_coder import trained
from tests.interop.hub import TOKEN, Hub, serving
from tests.interop.runs import make_run
from tests.interop.scopes import (
    Published,
    gated,
    gemma_scope_2,
    llama_scope,
    llama_scope_r1,
    qwen_scope,
)
from tests.interop.worker import Done, Worker

SOURCE = {
    "lm": {"name": "some/lm", "commit": "a" * 40},
    "text": {"path": "some/text", "sequence_length": 32},
    "store": "/home/me/store",
}
Run = Callable[..., Done]
KINDS = {"topk-24": "topk", "jumprelu-24": "jumprelu"}


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with serving() as hub:
        yield hub


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of two evaluated coders."""
    home = tmp_path_factory.mktemp("home")
    figures = {"l0": 3.0, "fvu": 0.25, "delta_loss": 0.5, "loss_recovered": 0.9, "dead_share": 0.0}
    figures |= {"tokens": 1000, "clean_loss": 3.0}
    coders = {name: fold(trained(kind, Form.autoencoder)[0], 2.0) for name, kind in KINDS.items()}
    make_run(home / "runs/r", coders, figures, source=SOURCE)
    return home


@pytest.fixture(scope="module")
def run(hub: Hub, home: Path) -> Iterator[Run]:
    """Run a command with this Hub as the Hub."""
    worker = Worker(home, hub.environment(str(home / "hf")))

    def run(command: str, *arguments: str, token: str = TOKEN) -> Done:
        return worker.run(command, *arguments, token=token)

    yield run
    worker.close()


def test_a_pushed_coder_is_loaded_from_the_hub_and_pinned_to_a_revision(
    hub: Hub, home: Path, run: Run
) -> None:
    done = run("export", "run=r", "to=sae_dist", "push=me/coders", "private=true")
    assert done.status == 0, done.said
    sha, tree = hub.at("me/coders", "main")
    assert f"/me/coders/commit/{sha}" in done.said
    assert hub.visibility["me/coders"] == "private"
    files = {f"{name}/{file}" for name in KINDS for file in ("coder.json", WEIGHTS)}
    assert set(tree) == {".gitattributes", "README.md", *files}
    local = home / "runs/r/exports/sae_dist/topk-24"
    assert tree[f"topk-24/{WEIGHTS}"] == (local / WEIGHTS).read_bytes()
    hub.commit("me/coders", {f"topk-24/{WEIGHTS}": tree[f"jumprelu-24/{WEIGHTS}"]})  # a bad one

    done = run("load", f"hub:me/coders/topk-24@{sha}", token="")
    assert done.status == 0, done.said
    found = torch.load(home / "found.pt")
    expected = load_coder(home / "runs/r/coders/topk-24").state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    asked = {path.rpartition("/")[2] for method, path in hub.requests if "/resolve/" in path}
    assert asked == {"coder.json", WEIGHTS}
    newest = run("load", "hub:me/coders/topk-24", token="")
    assert "unusable" in newest.said  # it is the newest that was asked for


def test_gemma_scopes_file_is_loaded_and_nothing_beside_it(
    hub: Hub, run: Run, tmp_path: Path
) -> None:
    coder = fold(trained("jumprelu", Form.autoencoder)[0], 2.0)
    format_named("gemma_scope").write(tmp_path, coder, {})
    found = (tmp_path / "params.npz").read_bytes()
    folder = "layer_3/width_16k/average_l0_3"
    files = (f"{folder}/params.npz", f"{folder}/ae.pt", f"{folder}/inner/params.npz", "params.npz")
    hub.commit("me/scope", dict.fromkeys(files, found))
    done = run("load", f"hub:me/scope/{folder}")
    assert done.status == 0, done.said
    by_file = run("load", f"hub:me/scope/{folder}/params.npz")
    assert by_file.status == 0, by_file.said
    asked = [path for _, path in hub.requests if "/me/scope/resolve/" in path]
    assert asked and all(path.endswith(f"/{folder}/params.npz") for path in asked)


def test_a_published_suites_short_name_fetches_its_files_alone(
    hub: Hub, home: Path, run: Run, tmp_path: Path
) -> None:
    published = qwen_scope(tmp_path).path
    files = {file.name: file.read_bytes() for file in published.iterdir()}
    files |= {"layer4.sae.pt": b"", "config.yaml": b""}
    sha = hub.commit("Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50", files)
    name = f"qwen-scope-3-1.7b-base-w32k-l50/layer3@{sha}"
    done = run("load", f"published:{name}", token="")
    assert done.status == 0, done.said
    expected = load_any(published).state_dict()
    found = torch.load(home / "found.pt")
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    asked = {path.rpartition("/")[2] for _, path in hub.requests if "/SAE-Res-Qwen3" in path}
    assert asked & files.keys() == {"layer3.sae.pt", "config.json"}
    gone = run("load", "published:qwen-scope-3-1.7b-base-w32k-l50/layer5")
    require_one_error(gone, "found no coder at hub:Qwen/SAE-Res-Qwen3.*/layer5.sae.pt")
    unknown = run("load", "published:qwen-scope-3-1.7b-base-w32k-l5/layer5")
    require_one_error(
        unknown, "found no published suite .*did you mean qwen-scope-3-1.7b-base-w32k-l"
    )


@pytest.mark.parametrize(
    ("publish", "where"),
    [
        (gemma_scope_2, "resid_post/layer_3_width_16k_l0_big"),
        (gemma_scope_2, "resid_post/layer_3_width_16k_l0_big/params.safetensors"),
        (llama_scope, "L3R-8x"),
        (llama_scope, "L3R-8x/checkpoints/final.safetensors"),
        (llama_scope_r1, "L3R"),
        (gated, "trainer_0/ae.pt"),
    ],
)
def test_what_others_publish_is_loaded_from_the_hub(
    publish: Callable[[Path], Published],
    where: str,
    hub: Hub,
    home: Path,
    run: Run,
    tmp_path: Path,
) -> None:
    published, place = publish(tmp_path), PurePosixPath(where)
    folder = place.parents["checkpoints" in where] if place.suffix else place
    files = {
        f"{folder}/{file.relative_to(tmp_path)}": file.read_bytes()
        for file in tmp_path.rglob("*")
        if file.is_file()
    }
    hub.commit("them/scope", files | {f"{folder}/examples.safetensors": b""})
    before = len(hub.requests)
    done = run("load", f"hub:them/scope/{where}")
    assert done.status == 0, done.said
    expected = load_any(published.path).state_dict()
    found = torch.load(home / "found.pt")
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    asked = {path for method, path in hub.requests[before:] if "/resolve/" in path}
    assert {path.partition("/resolve/")[2].partition("/")[2] for path in asked} == files.keys()


def test_the_card_says_what_was_measured_and_nothing_of_this_machine(
    hub: Hub, home: Path, run: Run
) -> None:
    done = run("export", "run=r", "to=saelens", "push=me/lens")
    assert done.status == 0, done.said
    _, tree = hub.at("me/lens", "main")
    card = tree["README.md"].decode()
    assert "base_model: some/lm\n" in card and "library_name: saelens\n" in card
    assert "| latents | L0 | FVU | Δ loss | recovered | dead |" in card
    row = "| `topk-24` | topk | autoencoder | resid_post.1 | resid_post.1 | 24 | 3.000 | 0.2500 |"
    assert f"{row} 0.5000 | 0.9000 | 0.00\N{NARROW NO-BREAK SPACE}% |" in card
    assert 'SAE.from_pretrained("me/lens", "jumprelu-24")' in card
    assert 'sae_dist.load_coder("hub:me/lens/jumprelu-24")' in card
    secrets = (b"/home/me", TOKEN.encode(), str(home).encode())
    pushed = [data for _, files in hub.repos["me/lens"] for data in files.values()]
    assert not [s for s in secrets if any(s in data for data in pushed)]


def test_the_token_is_written_nowhere(home: Path, run: Run) -> None:
    done = run("export", "run=r", "to=sae_dist", "push=me/token")
    refused = run("export", "run=r", "to=sae_dist", "push=you/no/such")
    wrong = run("export", "run=r", "to=sae_dist", "push=me/x", token="hf_no")
    assert [said.status for said in (done, refused, wrong)] == [0, 2, 2]
    for said in (done, refused, wrong):
        assert TOKEN not in said.said and "hf_no" not in said.said
    files = [path for path in home.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("repo", "token", "told"),
    [
        ("coders", TOKEN, "push=coders; expected USER/REPO"),
        ("me/new", "hf_no", "the Hub refused me/new .*401"),
        ("me/there", TOKEN, "me/there holds coders for sparsify; a repository holds one"),
    ],
)
def test_a_push_that_fails_says_so_in_one_line(
    hub: Hub, run: Run, repo: str, token: str, told: str
) -> None:
    if "me/there" not in hub.repos:
        hub.commit("me/there", {"layers.1/cfg.json": b"{}", "layers.1/sae.safetensors": b""})
    before = {name: len(commits) for name, commits in hub.repos.items()}
    done = run("export", "run=r", "to=saelens", f"push={repo}", token=token)
    assert done.status == 2
    require_one_error(done, told)
    assert {name: len(commits) for name, commits in hub.repos.items()} == before


def require_one_error(done: Done, told: str) -> None:
    errors = [line for line in done.said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and re.search(told, errors[0]), done.said
    assert "Traceback" not in done.said


@pytest.mark.slow
def test_a_hub_that_does_not_answer_is_told_in_one_line(home: Path, hub: Hub) -> None:
    settings = {**hub.environment(str(home / "hf")), "HF_ENDPOINT": "http://127.0.0.1:1"}
    worker = Worker(home, settings)
    for command in (("export", "run=r", "to=saelens", "push=me/new"), ("load", "hub:me/new/x")):
        done = worker.run(*command, token=TOKEN)
        assert done.status == 2
        require_one_error(done, "the Hub refused .*me/new")
    worker.close()


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("hub:me", "expected hub:USER/REPO/FOLDER"),
        ("hub:me/coders/../../etc", "expected hub:USER/REPO/FOLDER"),
        ("hub:me/nothing/x", "the Hub refused hub:me/nothing/x"),
        ("hub:me/pickles/x", "found no coder at hub:me/pickles/x"),
        ("hub:me/pickles/x@" + "0" * 40, "hub:me/pickles/x@0"),
    ],
)
def test_what_is_not_on_the_hub_is_refused_in_one_line(
    hub: Hub, run: Run, where: str, told: str
) -> None:
    hub.repos.setdefault("me/pickles", [("1" * 40, {"x/ae.pt": b"", "x/config.json": b"{}"})])
    before = len(hub.requests)
    done = run("load", where)
    assert done.status == 2
    require_one_error(done, re.escape(told))
    assert not any(path.endswith(".pt") for _, path in hub.requests[before:])
