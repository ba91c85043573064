import inspect
import os
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

import sae_dist
from sae_dist import config
from sae_dist.apps import (
    cli,
    compare,
    dashboard,
    evaluate,
    explain,
    export,
    fetch,
    files,
    finetune,
    harvest,
    import_coder,
    latents,
    plan,
    report,
    selftest,
    small_lm,
    train,
    verify,
)
from sae_dist.apps.rungs import lay_out
from sae_dist.common.errors import UserError
from sae_dist.config import EvaluateConfig, HarvestConfig, TrainConfig, conf_folder
from sae_dist.report.styles import width_label
from tests.apps.commands import ROOT, TORCHRUN, command, launch

COMMANDS = {
    "compare": compare,
    "dashboard": dashboard,
    "evaluate": evaluate,
    "explain": explain,
    "export": export,
    "fetch": fetch,
    "files": files,
    "finetune": finetune,
    "harvest": harvest,
    "import_coder": import_coder,
    "latents": latents,
    "plan": plan,
    "report": report,
    "selftest": selftest,
    "small_lm": small_lm,
    "train": train,
    "verify": verify,
}
GIVEN = {
    "compare": ["run=[a]", "to=here"],
    "dashboard": ["run=name"],
    "evaluate": ["run=name"],
    "explain": ["run=name", "judge.model=m"],
    "export": ["run=name", "to=saelens"],
    "fetch": ["lm.name=lm", "text.path=text"],
    "files": [],
    "finetune": ["run=name", "to=new"],
    "harvest": ["store=s", "sites=[embed]", "lm.name=lm", "text.path=text"],
    "import_coder": ["path=there", "to=here"],
    "latents": ["run=name"],
    "plan": [],
    "report": ["run=name"],
    "selftest": [],
    "small_lm": ["folder=lm"],
    "train": ["store=s", "run=name"],
    "verify": ["store=s"],
}
ROOT_OF = {"coder": "train", "optim": "train", "sweep": "train", "lm": "harvest", "machine": "plan"}
CHAT_OF = (
    *(("fetch", "text"), ("harvest", "text"), ("latents", "text"), ("small_lm", "text")),
    ("evaluate", "transfer"),
)
FILES = [  # tests/apps/test_experiment.py looks at the others
    path for path in sorted(conf_folder().rglob("*.yaml")) if path.parent.name != "experiment"
]


def compose(root: str, *overrides: str) -> Any:
    return cli.to_dataclass(cli.compose_config(root, [*GIVEN[root], *overrides]))


def run(root: str, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [f"sae-dist {root}", *arguments])
    COMMANDS[root].main()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(conf_folder())))
def test_every_file_of_conf_composes(path: Path) -> None:
    group = path.relative_to(conf_folder()).parent.name
    prefix = "+" if group == "sweep" else ""
    if group == "chat":
        for root, place in CHAT_OF:
            config = compose(root, f"+chat@{place}={path.stem}")
            assert getattr(config, place).template.count("{document}") == 1
        return
    if group == "recipe":  # of an optimizer and a coder together
        optim, _, coder = path.stem.partition("_")
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
        found = asdict(compose("train", f"optim={optim}", f"coder={coder}").optim)
        assert {key: value for key, value in found.items() if key in said} == {
            key: float(value) for key, value in said.items() if key != "defaults"
        }
        return
    roots = ("harvest", "small_lm") if group == "text" else (ROOT_OF[group],)
    for root in roots:
        assert compose(root, f"{prefix}{group}={path.stem}") is not None
    if group in ("coder", "sweep"):  # what it stands for can be laid out, too
        choice = [*GIVEN["train"], f"{prefix}{group}={path.stem}"]
        target = "b" if "transcoder" in path.stem else "a"
        sites = ["site=a", f"target={target}"]
        rungs = lay_out(cli.compose("train", choice + sites), {"a": 8, "b": 8})
        assert len({rung.name for rung in rungs}) == len(rungs) > 0


def test_every_command_is_a_function_of_its_configuration() -> None:
    assert config.COMMANDS.keys() == COMMANDS.keys()
    for name, row in config.COMMANDS.items():
        function = getattr(COMMANDS[name], name)
        assert callable(getattr(sae_dist, name, None)) or name not in sae_dist.__all__
        assert inspect.signature(function).parameters["config"].annotation is row.config
        assert isinstance(compose(name), row.config)


def test_a_function_refuses_what_its_command_would(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="^store=…, run=… must be given"):
        sae_dist.train(TrainConfig())
    with pytest.raises(UserError, match="^found no store at .*nowhere"):
        sae_dist.train(TrainConfig(store=f"{tmp_path}/nowhere", run="r"))
    with pytest.raises(UserError, match="^max_sequences=0; expected"):
        sae_dist.evaluate(EvaluateConfig(run=["r"], runs=str(tmp_path), max_sequences=0))


@pytest.mark.parametrize(
    ("root", "arguments", "said"),
    [
        ("small_lm", ["+chat@text=small_lm"], "found text.template='### User.*expected none"),
        ("train", ["coder.latents=3"], "found key coder.latents; .*did you mean coder.num_latents"),
        ("train", ["num_latents=3"], "did you mean coder.num_latents?"),
        ("train", ["batch_token=3"], "did you mean batch_tokens?"),
        ("train", ["+coder.x=3"], "found key coder.x; expected one that --help lists"),
        (
            "train",
            ["coder=jumprel"],
            "coder=jumprel; expected one of abstopk,.*did you mean jumprelu?",
        ),
        ("train", ["+sweep=none"], "sweep=none; expected one of width_ladder"),
        ("train", ["coder.kind=top"], "found coder.kind=…; expected coder=NAME"),
        ("train", ["seed=abc"], "seed=abc; expected a whole number, at least 0$"),
        ("train", ["tokens=100Q"], "tokens=100Q; expected a whole number, at least 1"),
        ("train", ["tokens=1e6.5"], "tokens=1e6.5; expected a whole number, at least 1"),
        ("train", ["coder.num_latents=131K"], "would be 134,144; expected 131,072, a power of two"),
        ("train", ["optim.lr=nan"], "optim.lr=nan; expected a number, more than 0$"),
        ("train", ["sweep.grids=[3]"], r"sweep.grids=\[3\]; expected a list of maps"),
        ("train", ["sweep.grids=[{coder.k:4"], "sweep.grids: found .* without its '}'; close it"),
        (
            "train",
            ["coder=topk", "coder.k=2,4"],
            r"one value; a ladder of several is 'sweep.grids=\[{coder.k:",
        ),
        ("train", ["coder=[topk,batchtopk]"], r"a ladder of several is 'sweep.grids=\[{coder:"),
        ("train", ["_target_=torch.hub.load"], "found key _target_; expected one that"),
        ("train", ["+_target_=torch.hub.load"], "found key _target_; expected one that"),
        ("train", ["+coder._target_=torch.hub.load"], "found key coder._target_; expected one"),
        ("train", ["coder.x.y=3"], "found key coder.x.y; expected one"),
        ("train", ["optim=3"], "optim=3; expected one of adam, muon, signum"),
        (
            "train",
            ["optim=muon", "optim.beta1=0"],
            "optim.beta1, which optim=muon has not, but adam; expected one of optim.momentum, ",
        ),
        ("train", ["optim.name=muon"], "found optim.name=…; expected optim=NAME"),
        ("train", ["harvest={lm:gpt2}"], "found harvest=…; expected harvest.KEY=VALUE"),
        ("train", ["--store", "s1"], "found --store; .*did you mean store=s1[?]$"),
        ("train", ["--store=s1"], "found --store=s1; .*did you mean store=s1[?]$"),
        ("train", ["--coder.num-latents", "4"], "did you mean coder.num_latents=4[?]$"),
        ("train", ["help"], "found help; expected key=value.*did you mean --help[?]$"),
        ("train", ["tokens"], "found tokens; expected key=value.*did you mean tokens=VALUE[?]$"),
        ("train", ["tokens="], "tokens= has no value; expected a whole number"),
        ("train", ["site="], "site= has no value; expected a text"),
        ("train", ["~coder"], "found ~coder; expected key=value"),
        ("train", ["d_sae=3"], "d_sae of other libraries is coder.num_latents here$"),
        ("train", ["sae.l1_coefficient=3"], "l1_coefficient of .* is coder.sparsity_coefficient"),
        ("train", ["hook_name=x"], "hook_name of other libraries is site here$"),
        ("train", ["context_size=9"], "is text.sequence_length of sae-dist harvest here$"),
        ("harvest", ["hook_name=x"], "hook_name of other libraries is sites here$"),
        ("harvest", ["sites=[blocks.3.hook_resid_post]"], "that is resid_post.3 here$"),
        ("harvest", ["lm=EleutherAI/pythia-70m"], "expected one of custom, .*or lm.name=NAME"),
        ("export", ["push=a--b/c"], "push=a--b/c; expected USER/REPO"),
        ("train", ["log.project=a/b"], "log.project='a/b'; expected a name without /"),
        ("train", ["run=../x"], "run='../x': a run's name is letters"),
        ("train", ["run=/x"], "run='/x': a run's name is letters"),
        ("train", ["store=${nothing}"], "store: Interpolation key 'nothing' not found"),
        ("train", ["store=${nothing:3}"], "store: Unsupported interpolation type nothing"),
        ("train", ["run=[a"], r"run='\[a': a run's name is letters"),
        ("train", ["store=${"], "store=\\${; expected \\${KEY} for what another key says"),
        ("train", ["=3"], "found =3; expected key=value"),
        ("train", ["--multirun"], "--multirun"),
        ("train", ["store=nowhere"], "found no store at nowhere"),
        ("evaluate", ["run=../x"], "run='../x': a run's name is letters"),
        ("evaluate", [], "no run in runs/name; expected config.yaml"),
        ("evaluate", ["lm.name=x"], "found key lm.name; .*did you mean lm_name?"),
        ("explain", ["judge=orcle"], "judge=orcle; expected one of .*did you mean oracle?"),
        ("explain", ["judge=random"], "found key judge.model, which judge=random has not, but "),
        (
            "explain",
            ["judge.batch_size=2"],
            "batch_size, which judge=openai has not, but local",
        ),
        ("explain", ["scorers=[detect]"], "scorers=detect; expected one of .*mean detection?"),
        ("report", ["run=.."], "run='..': a run's name is letters"),
        ("report", [], "no run in runs/name; expected config.yaml"),
        ("harvest", ["sites=[]"], r"sites=\[\]; expected one or more different ones"),
        ("harvest", ["sites=[embed,embed]"], "sites=.*; expected one or more different ones"),
        ("harvest", ["sites=3"], "sites=3; expected a site such as resid_post.3"),
        ("harvest", ["lm=llama_9"], "lm=llama_9; expected one of .*pythia_70m"),
        ("harvest", ["lm.name=./nowhere"], "no folder nowhere; expected a saved model"),
        ("harvest", ["lm._target_=torch.hub.load"], "found key lm._target_; expected"),
        ("verify", [], "found no store at s; expected its folder"),
        ("import_coder", ["to=."], "to=. exists; expected a new folder"),
        ("selftest", ["folder=nowhere"], "no folder nowhere"),
        ("compare", [], "no run in runs/a; expected config.yaml"),
        ("train", ["source=decoder", "decoder=c"], "found no coder at c"),
        ("train", ["source=decoder"], "decoder=… must be given"),
        ("train", ["expansion=8", "coder.num_latents=4K"], "found expansion=.*drop one"),
        ("train", ["source=stord"], "source=stord; expected one of stored, live, decoder"),
        ("plan", ["train.sed=1"], "found key train.sed; .*did you mean train.seed?"),
        ("plan", ["train.machine=h200"], "found train.machine; expected machine=…, that of both"),
        ("plan", [], "harvest.sites=…, harvest.lm.name=… must be given; see --help$"),
    ],
)
def test_a_mistake_ends_in_one_line(
    root: str,
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ending:
        run(root, *GIVEN[root], *arguments, monkeypatch=monkeypatch)
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if line.startswith("error")]
    assert ending.value.code == 2 and len(lines) == 1 and not printed.out
    assert lines[0].startswith("error: ") and re.search(said, lines[0]), lines[0]
    assert "Traceback" not in printed.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("root", COMMANDS)
def test_what_must_be_given_is_asked_for(
    root: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    if GIVEN[root]:
        with pytest.raises(SystemExit, match="2"):
            run(root, monkeypatch=monkeypatch)
        keys = ", ".join(f"{argument.partition('=')[0]}=…" for argument in GIVEN[root])
        assert capsys.readouterr().err == f"error: {keys} must be given; see --help\n"


@pytest.mark.parametrize("root", COMMANDS)
def test_help_names_every_key_and_choice(
    root: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run(root, "--help", monkeypatch=monkeypatch)
    printed = capsys.readouterr().out
    assert printed.startswith((COMMANDS[root].__doc__ or "").strip().splitlines()[0])
    for argument in GIVEN[root]:
        assert re.search(rf"^ +{argument.split('=')[0].split('.')[-1]}: ", printed, re.MULTILINE)
    place = dict(CHAT_OF).get(root)
    assert f"+chat@{place}=gemma_2|llama_3|" in printed if place else "+chat" not in printed
    if root == "train":
        assert "|batchtopk|" in printed and "+sweep=width_ladder" in printed
        assert "+experiment=" in printed and "\n  lm=" not in printed
        meanings = printed.partition("What they mean:")[2]
        assert "`site` is what is read" in meanings and "`tokens` counts" in meanings
        assert "\n  coder.…:\n" in meanings and "begins at `initial_threshold`" in meanings


def test_cfg_shows_what_would_be_run_without_running_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run("train", "store=s", "coder=topk", "tokens=2.5M", "--cfg", monkeypatch=monkeypatch)
    printed = capsys.readouterr().out
    assert "store: s\n" in printed and "kind: topk\n" in printed and "tokens: 2500000\n" in printed
    assert "run: ???\n" in printed


@pytest.mark.parametrize(
    ("given", "tokens"),
    [
        *(("100M", 10**8), ("8B", 8 * 10**9), ("1.5K", 1500), ("2T", 2 * 10**12), ("77", 77)),
        *(("1e6", 10**6), ("2_000", 2000), ("16Ki", 2**14), ("100k", 10**5), ("1.1B", 11 * 10**8)),
    ],
)
def test_counts_of_tokens_may_have_a_unit(given: str, tokens: int) -> None:
    config = compose("harvest", f"tokens={given}")
    assert isinstance(config, HarvestConfig) and config.tokens == tokens
    config = compose("train", f"batch_tokens={given}", f"stream.bucket_tokens={given}")
    assert isinstance(config, TrainConfig)
    assert config.batch_tokens == config.stream.bucket_tokens == tokens


@pytest.mark.parametrize("num_latents", [2**14, 2**17, 2**20, 3 * 2**12])
def test_a_width_is_typed_as_labels_write_it(num_latents: int) -> None:
    label = width_label(num_latents)
    assert compose("train", f"coder.num_latents={label}").coder.num_latents == num_latents


@pytest.mark.parametrize("reader", ["--help", "--cfg"])
def test_who_reads_help_may_have_enough_of_it(reader: str, tmp_path: Path) -> None:
    script = f"{sys.executable} {launch('train')} {reader} store=s run=r | head -n 1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {script}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)


def test_ctrl_c_ends_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def interrupted(config: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sae_dist.apps.checks.check", interrupted)
    with pytest.raises(SystemExit, match="130"):
        run("report", "run=r", monkeypatch=monkeypatch)
    assert capsys.readouterr().err == "error: interrupted\n"


def test_a_mistake_in_a_process_of_its_own_ends_in_one_line(tmp_path: Path) -> None:
    done = command(launch("train"), "store=s", "run=../x", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: run='../x': .*\n", done.stderr)


def test_every_process_says_what_is_wrong(tmp_path: Path) -> None:
    done = command(*TORCHRUN, "2", launch("train"), "store=s", "run=r", "sed=1", cwd=tmp_path)
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("error")]
    wrong = "found key sed; expected one that --help lists; did you mean seed?"
    assert said  # torchrun ends the others, which may not have got there
    assert set(said) <= {f"error (rank 1): {wrong}", f"error: {wrong}"}


@pytest.mark.parametrize("path", sorted((ROOT / "launch").glob("*.py")), ids=lambda p: p.name)
def test_every_script_explains_itself(path: Path, tmp_path: Path) -> None:
    done = command(str(path), "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Keys and defaults (key=value):" in done.stdout
