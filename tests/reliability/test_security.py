"""Nothing from outside is run, leads out of its folder, or shows what is secret."""

import ast
import json
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from sae_dist.apps import cli, evaluate, harvest, harvested, report, train
from sae_dist.apps.runs import finished_run, run_folder
from sae_dist.coders import Coder, load_coder, save_coder
from sae_dist.common.credentials import keys_with_credentials, without_credentials
from sae_dist.common.errors import UserError
from sae_dist.common.log import log_info, warn, write_error
from sae_dist.store import StoreWriter, open_store, verify, write_store
from sae_dist.store.verify import Repair, audit
from sae_dist.train.wandb_tracker import wandb_id
from tests.apps.commands import ROOT, command, installed, launch
from tests.coders.kinds import config_of_kind
from tests.harvest.tiny import tokenizer
from tests.lm.tiny import tiny_model
from tests.train.ladders import make_store

SMALL = ("coder=topk", "coder.num_latents=32", "coder.k=4", "tokens=640", "batch_tokens=64")
STREAM = ("stream.bucket_tokens=640", "log.wandb=disabled")
CANARY = "import pathlib\npathlib.Path(__file__).with_name('called').touch()\ndef run(*_): ...\n"


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> Callable[..., str]:
    """Run a command in an empty folder, see it refuse with status 2; the one line it said."""
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)

    def refused(main: Callable[[], None], *arguments: str) -> str:
        if dist.is_initialized():
            dist.destroy_process_group()
        monkeypatch.setattr("sys.argv", ["command", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit, match="2"):
            main()
        said = capsys.readouterr().err
        (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
        print(line)
        assert "Traceback" not in said
        return line

    return refused


# Names and links


HOSTILE = [
    "../../x",
    "/abs",
    "a\0b",
    "",
    ".",
    "..",
    "x" * 255,
    "\uff41",
    "a\u202eb",
    "a\nb",
    "~",
    "-a",
]


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_name_that_is_no_plain_folder_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a run's name is letters") as error:
        run_folder(str(tmp_path), name)
    assert str(error.value).isprintable() and len(str(error.value)) < 500


def test_the_name_of_a_rung_cannot_lead_out(refused: Callable[..., str], tmp_path: Path) -> None:
    make_store(tmp_path / "store", num_tokens=2048)
    grid = "sweep.grids=[{site:[../../x,in]}]"
    line = refused(train.main, "store=store", "run=r", "site=in", *SMALL, *STREAM, grid)
    assert re.search(r"rung='topk-32-k4-\.\./\.\./x': a rung's name is letters", line)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize("site", ["../x", "/x", "a/b", "", ".", "x" * 129, "a\nb", "é"])
def test_the_name_of_a_site_cannot_lead_out(site: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found site"):
        write_store(tmp_path / "store", {site: torch.ones(9, 2)}, held_out=0.0)
    assert list(tmp_path.iterdir()) == []


def test_a_wandb_id_is_plain_and_short() -> None:
    assert wandb_id("run", "rung", "0a1b2c3d") == "run-rung-0a1b2c3d"
    ids = [wandb_id("r" * 100, "x" * 99 + end, "0a1b2c3d") for end in "ab"]
    assert ids[0] != ids[1] and {len(name) for name in ids} == {128}


@pytest.mark.parametrize("inside", ["", "coders", "coders/rung", "checkpoints", "metrics.jsonl"])
def test_a_link_out_of_a_run_is_refused(
    inside: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    make_store(tmp_path / "store", num_tokens=2048)
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "runs" / "r" / inside
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "elsewhere")
    line = refused(train.main, "store=store", "run=r", "site=in", *SMALL, *STREAM)
    assert f"found a link runs/r/{inside}".rstrip("/") in line and "set runs=" in line
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_runs_itself_may_be_a_link_and_a_run_have_links_inside(tmp_path: Path) -> None:
    (tmp_path / "scratch" / "first").mkdir(parents=True)
    (tmp_path / "runs").symlink_to("scratch")
    (tmp_path / "runs" / "newest").symlink_to("first")
    for name in ("first", "newest", "to_come"):
        assert run_folder(str(tmp_path / "runs"), name) == tmp_path / "runs" / name


def everything_is_read(root: Path) -> None:
    store = open_store(root)
    for chunk in range(len(store.chunk_rows)):
        store.read_rows("in", chunk)


@pytest.mark.parametrize("what", ["shard", "manifest", "sums", "folder", "pipe"])
def test_a_store_with_links_is_refused(what: str, tmp_path: Path) -> None:
    root = make_store(tmp_path / "store", num_tokens=512)
    path = {
        "manifest": root / "MANIFEST.json",
        "sums": root / "SUMS.bin",
        "folder": root / "rows/activations/in",
    }.get(what, root / "rows/activations/in/c.0.0")
    away = path.rename(tmp_path / "away")
    if what == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(away)
    with pytest.raises(UserError, match=rf"found {path} to be .*cp -rL"):
        everything_is_read(root)
    assert any(str(path) in str(fault) for fault in verify(root, full=True))
    if what == "folder":
        with pytest.raises(UserError, match="to be a link"):
            StoreWriter.open(root)


@pytest.mark.parametrize("folder", ["commits", "copy", "rows", "sequences/activations/in"])
def test_a_repair_writes_through_no_link(folder: str, tmp_path: Path) -> None:
    root, away = make_store(tmp_path / "store", num_tokens=512), tmp_path / "away"
    (root / "rows/activations/in/c.0.0").write_bytes(b"")
    if (root / folder).exists():
        (root / folder).rename(away)
    else:
        away.mkdir()
    (root / folder).symlink_to(away)
    before = sorted(away.rglob("*"))
    found = audit(root, full=True, workers=1)
    assert [(fault.path, fault.found) for fault in found.faults] == [
        (root / folder, "to be a link")
    ]
    with pytest.raises(UserError, match=r"to be a link; .*cp -rL"):
        Repair(found)
    assert sorted(away.rglob("*")) == before


def test_a_shard_that_is_another_file_of_this_machine_shows_nothing(tmp_path: Path) -> None:
    root = make_store(tmp_path / "store", num_tokens=512)
    shard = root / "rows/activations/in/c.0.0"
    shard.unlink()
    shard.symlink_to("/etc/passwd")
    with pytest.raises(UserError, match="to be a link") as error:
        everything_is_read(root)
    assert "root:" not in str(error.value) and "bytes" not in str(error.value)


# Code


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`canary.run` can be imported; the file tells whether it was."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "canary.py").write_text(CANARY)
    monkeypatch.syspath_prepend(str(folder))
    return folder / "called"


@pytest.mark.parametrize(
    "override",
    ["+_target_=canary.run", "+coder._target_=canary.run", "coder={_target_:canary.run}"],
)
def test_a_target_on_the_command_line_is_never_called(
    override: str, canary: Path, refused: Callable[..., str]
) -> None:
    assert "_target_" in refused(train.main, "store=s", "run=r", override)
    assert not canary.exists()


def test_a_target_in_a_file_is_never_called(
    canary: Path, refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "conf" / "coder").mkdir(parents=True)
    (tmp_path / "conf" / "coder" / "evil.yaml").write_text("_target_: canary.run\n")
    (tmp_path / "conf" / "train.yaml").write_text("defaults: [train_schema, coder: evil, _self_]\n")
    monkeypatch.setattr(cli, "conf_folder", lambda: tmp_path / "conf")
    assert "'_target_' not in 'CoderConfig'" in refused(train.main, "store=s", "run=r")
    assert not canary.exists()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("+stream.lane=3", "did you mean stream.lanes?"),
        ("+coder.num_latent=3", "did you mean coder.num_latents or "),
        ("batch_token=3", "did you mean batch_tokens?"),
    ],
)
def test_an_unknown_key_is_told_its_neighbour(
    override: str, said: str, refused: Callable[..., str]
) -> None:
    assert said in refused(train.main, "store=s", "run=r", override)


YAML = {
    "object": "store: !!python/object/apply:canary.run [x]\n",
    "module": "store: !!python/module:canary\n",
    "deep": "store: " + "[" * 5000,
    "long": "store: " + "x" * 2**20,
    "nothing": "",
    "list": "[1, 2]",
    "torn": "store: {a",
    "bomb": "a: &a [x, x]\n"
    + "".join(
        f"{c}: &{c} [*{b}, *{b}]\n"
        for b, c in zip("abcdefghijklmnopqrstu", "bcdefghijklmnopqrstuv", strict=True)
    ),
}


@pytest.mark.parametrize("text", YAML.values(), ids=YAML.keys())
def test_a_runs_configuration_is_data(text: str, canary: Path, tmp_path: Path) -> None:
    (tmp_path / "runs" / "r").mkdir(parents=True)
    (tmp_path / "runs" / "r" / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml.*restore it"):
        finished_run(str(tmp_path / "runs"), "r")
    assert not canary.exists()


def test_a_store_does_not_decide_whose_code_is_run() -> None:
    about = {"name": "evil/model", "commit": "c", "trust_remote_code": True}
    with pytest.raises(UserError, match="lm_trust_remote_code=true if you trust it"):
        harvested._config(about, None, trust_remote_code=False)
    assert harvested._config(about, None, trust_remote_code=True).trust_remote_code
    assert not harvested._config({"name": "a"}, None, trust_remote_code=True).trust_remote_code
    with pytest.raises(UserError, match="found no language model in the store's manifest"):
        harvested._config({"name": "a", "_target_": "canary.run"}, None, trust_remote_code=False)


CALLS = ("pickle.", "cloudpickle.", "dill.", "joblib.", "yaml.load", "yaml.unsafe_load", "eval")
CALLS += ("exec", "compile", "__import__", "os.system", "os.popen", "importlib.import_module")
ALLOWED = {
    ("sae_dist/apps/experiment.py", "yaml.load"): "with a SafeLoader that resolves no tag",
    ("sae_dist/apps/command.py", "import_module"): "the commands, by the name they are run by",
    ("sae_dist/common/lazy.py", "import_module"): "a package's own modules, named in its file",
    ("sae_dist/kernels/dispatch.py", "importlib.import_module"): "Triton's, by names in the file",
    (
        "sae_dist/checkpoint/metadata.py",
        "pickle.UnpicklingError",
    ): "raised where a class is refused",
}


def _complaints(source: str) -> list[str]:
    """What in a file could run what it was given: the call's dotted name."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name, keywords = ast.unparse(node.func), {k.arg: k.value for k in node.keywords}
            given = {key: ast.unparse(value) for key, value in keywords.items()}
            unsafe = {
                name.startswith(CALLS[:4]) or name in CALLS or name == "import_module",
                name == "torch.load" and given.get("weights_only") != "True",
                given.get("shell", "False") != "False",
                given.get("allow_pickle", "False") != "False",
                given.get("trust_remote_code") == "True",
            }
            found += [name] if any(unsafe) else []
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "trust_remote_code":
            found += [] if node.value and ast.unparse(node.value) == "False" else ["default"]
    return found


def test_no_file_of_ours_runs_what_it_is_given() -> None:
    files = [path for folder in ("sae_dist", "launch") for path in (ROOT / folder).rglob("*.py")]
    found = {
        (str(path.relative_to(ROOT)), name)
        for path in files
        for name in _complaints(path.read_text())
    }
    assert len(files) > 100 and found == ALLOWED.keys()


@pytest.mark.parametrize(
    "line",
    [
        *("torch.load(f)", "pickle.loads(b)", "eval(x)", "yaml.load(f, Loader)"),
        *("run(c, shell=True)", "np.load(f, allow_pickle=True)"),
        "A.from_pretrained(n, trust_remote_code=True)",
    ],
)
def test_a_dangerous_line_is_found(line: str) -> None:
    assert len(_complaints(line)) == 1
    assert _complaints("torch.load(f, weights_only=True); coder.eval()") == []


# Coders from elsewhere


class Called:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.fixture
def coder_folder(tmp_path: Path) -> Path:
    coder = Coder(config_of_kind("topk", num_latents=8, k=2), 4, 4)
    tensors = {name: torch.zeros_like(tensor) for name, tensor in coder.state_dict().items()}
    save_coder(tmp_path / "coder", coder, tensors, {})
    assert load_coder(tmp_path / "coder").d_in == 4
    return tmp_path / "coder"


def _describe(folder: Path, **changes: Any) -> None:
    path = folder / "coder.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _weights(folder: Path, **changes: torch.Tensor | None) -> None:
    tensors = {**load_file(folder / "coder.safetensors"), **changes}
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, folder / "coder.safetensors")


def _header(folder: Path, header: bytes, claimed: int | None = None) -> None:
    size = struct.pack("<Q", len(header) if claimed is None else claimed)
    (folder / "coder.safetensors").write_bytes(size + header)


def _pickle(folder: Path) -> None:
    torch.save({"W_enc": Called(folder / "called")}, folder / "coder.safetensors")


def _gigabyte(folder: Path) -> None:
    with (folder / "coder.json").open("r+b") as file:
        file.truncate(2**30)  # sparse: takes no disk


BEYOND = b'{"W_enc":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,64]}}'
FAULTS: dict[str, Callable[[Path], object]] = {
    "pickle": _pickle,
    "header of 2^60 bytes": lambda folder: _header(folder, b"{}", 2**60),
    "tensor of 2^62 rows": lambda folder: _header(folder, BEYOND),
    "empty": lambda folder: (folder / "coder.safetensors").write_bytes(b""),
    "no weights": lambda folder: (folder / "coder.safetensors").unlink(),
    "gigabyte": _gigabyte,
    "deep": lambda folder: (folder / "coder.json").write_text("[" * 10**5),
    "no json": lambda folder: (folder / "coder.json").write_text("PK\x03\x04"),
    "list": lambda folder: (folder / "coder.json").write_text("[1]"),
    "no config": lambda folder: _describe(folder, config=None),
    "kind": lambda folder: _describe(folder, config={"kind": "relu"}),
    "latents": lambda folder: _describe(folder, config={"num_latents": 2**62}),
    "words": lambda folder: _describe(folder, config={"num_latents": "many"}),
    "width": lambda folder: _describe(folder, d_in=2**62),
    "negative": lambda folder: _describe(folder, d_in=-1),
    "another width": lambda folder: _describe(folder, d_in=5, d_out=5),
    "tensor missing": lambda folder: _weights(folder, b_dec=None),
    "tensor too many": lambda folder: _weights(folder, extra=torch.zeros(1)),
    "integers": lambda folder: _weights(folder, b_dec=torch.zeros(4, dtype=torch.int64)),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_coder_that_is_none_is_refused_in_one_line(
    fault: Callable[[Path], object], coder_folder: Path
) -> None:
    fault(coder_folder)
    with pytest.raises(UserError) as error:
        load_coder(coder_folder)
    line = str(error.value)
    print(line)
    assert str(coder_folder) in line and "expected" in line and "\n" not in line
    assert len(line) < 600 and not (coder_folder / "called").exists()


def test_a_pickle_given_for_a_folder_is_not_opened(tmp_path: Path) -> None:
    torch.save(Called(tmp_path / "called"), tmp_path / "coder.pt")
    with pytest.raises(UserError, match="no coder in .*coder.pt: expected coder.json"):
        load_coder(tmp_path / "coder.pt")
    assert not (tmp_path / "called").exists()


# Secrets


TOKEN, KEY, WORD = "hf_CANARYcanaryCANARY", "ab" * 20, "s3cr3tcanary"
URL = f"https://user:{WORD}@host.invalid/x"


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (harvest.main, ("lm.name=lm", "sites=[embed]", "store=s", f"text.path={URL}")),
        (harvest.main, (f"lm.name={URL}", "sites=[embed]", "store=s", "text.path=t")),
        (harvest.main, ("lm.name=lm", "sites=[embed]", f"store={URL}", "text.path=t")),
        (train.main, (f"store={URL}", "run=r")),
        (train.main, (f"store={URL}", "run=r", "+no=1")),
        (train.main, ("store=s", f"run={URL}")),
        (train.main, ("store=s", "run=r", f"tokens={URL}")),
        (train.main, ("store=s", "run=r", f"sweep.grids=[{{log.project:['{URL}']}}]")),
        (evaluate.main, ("run=r", f"store={URL}")),
        (report.main, ("run=r", f"runs={URL}")),
    ],
)
def test_a_password_in_a_url_is_refused_and_not_repeated(
    main: Callable[[], None], arguments: tuple[str, ...], refused: Callable[..., str]
) -> None:
    assert WORD not in refused(main, *arguments)
    assert list(Path().iterdir()) == []


def test_credentials_are_taken_out_of_urls_alone() -> None:
    assert without_credentials(f"a {URL} b") == "a https://host.invalid/x b"
    assert without_credentials(f"{Path(URL)}/y") == "https:/host.invalid/x/y"
    for text in ("hf://datasets/a/b@main/c", "me@host: 3", "https://host/a b@c"):
        assert without_credentials(text) == text


@pytest.mark.parametrize(
    ("given", "left"),
    [
        (f"https://h/x?token={WORD}", "https://h/x?token=…"),
        (f"s3://b/x?a=1&X-Amz-Signature={WORD}&b=2", "s3://b/x?a=1&X-Amz-Signature=…&b=2"),
        (f"h/x?X-Amz-Security-Token={WORD} y", "h/x?X-Amz-Security-Token=… y"),
        (f"h/x?AWSAccessKeyId={WORD}#part", "h/x?AWSAccessKeyId=…#part"),
        (f"h/x?sv=1&sig={WORD}'", "h/x?sv=1&sig=…'"),
        (f"h/x?api_key={WORD}&b=2", "h/x?api_key=…&b=2"),
        (f"invalid token {TOKEN}", "invalid token hf_…"),
        (f"Authorization: Bearer {KEY}", "Authorization: Bearer …"),
        ("found 3 tokens; tokens=10; k=3?", "found 3 tokens; tokens=10; k=3?"),
        ("h/x?page=2&tokens=9&sort=key", "h/x?page=2&tokens=9&sort=key"),
    ],
)
def test_secrets_of_queries_and_headers_are_not_repeated(
    given: str, left: str, capsys: pytest.CaptureFixture
) -> None:
    assert without_credentials(given) == left
    for tell in (log_info, warn, write_error):
        tell(given)
    assert all(line.endswith(left) for line in capsys.readouterr().err.splitlines())
    is_secret = list(keys_with_credentials({"a": [f"https://{given}"]})) == ["a.0"]
    assert is_secret == ("?" in given and "…" in left)


@pytest.mark.slow
def test_secrets_of_the_environment_are_in_no_file_and_no_line(tmp_path: Path) -> None:
    """The whole way, with W&B writing its files."""
    (tmp_path / "text.txt").write_text("the a saw one b of the c\n" * 200)
    tiny_model("llama").save_pretrained(tmp_path / "lm")
    tokenizer().save_pretrained(tmp_path / "lm")
    secrets = {"HF_TOKEN": TOKEN, "WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}
    lm = ("lm.name=lm", "text.path=text.txt", "text.sequence_length=16", "sites=[resid_post.1]")
    sizes = ("tokens=1024", "writer.chunk_mib=0.002", "writer.shard_mib=0.01", "store=store")
    said = ""
    for arguments in (
        (launch("harvest"), *lm, *sizes),
        (launch("train"), "store=store", "run=r", *SMALL, STREAM[0], "log.every_steps=2"),
        (*installed("evaluate"), "run=r"),
        (*installed("report"), "run=r"),
        (launch("train"), "store=nowhere", "run=r"),
    ):
        done = command(*arguments, cwd=tmp_path, **secrets)
        assert done.returncode == (2 if "store=nowhere" in arguments else 0), done.stderr
        said += done.stdout + done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files) and len(files) > 30
    contents = [said.encode(), *(path.read_bytes() for path in files)]
    print(f"\n{len(files)} files of {sum(map(len, contents)):,} bytes searched")
    for secret in (TOKEN, KEY):
        assert not any(secret.encode() in data for data in contents)
