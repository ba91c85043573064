"""Each command that the documents show, composed by the code that would run it."""

import functools
import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser

from benchmarks import BENCHMARKS
from benchmarks.__main__ import module_of, options_of
from sae_dist.apps import cli, completion, console, help
from sae_dist.apps.rungs import lay_out
from sae_dist.common.errors import UserError
from sae_dist.lm import expand_sites
from tests.apps.commands import ROOT
from tests.docs.shell import Call, calls, calls_in, documents, sources

_ELSEWHERE = {"git", "id", "tensorboard", "wandb"}  # not ours to check
_CHOICE = re.compile(r"(\+?[\w@]+)=[A-Z][A-Z_]*")  # a file of a group, named by a word in capitals
_FLAGS = {"--help", "--cfg"}


def check(call: Call) -> None:
    """Fail unless what is called is there and takes what is given."""
    program, *words = call.words
    if program in _ELSEWHERE:
        return
    if program == "make":
        assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), call
    elif program == "pip":
        _check_extras(words)
    elif program == "docker":
        _check_container(words, call.is_part)
    elif program == "sbatch":
        _check_batch(words, call.is_part)
    elif program == "torchrun":
        _check_launched(get_args_parser().parse_args(words), call.is_part)
    elif program == "accelerate":
        assert words[0] == "launch", call
        arguments = launch_command_parser().parse_args(words[1:])
        assert arguments.config_file is None or (ROOT / arguments.config_file).is_file(), call
        _check_launched(arguments, call.is_part)
    elif program == "sae-dist":
        _compose(words[0], tuple(words[1:]), call.is_part or len(words) == 1)  # its name alone
    else:
        assert program in ("python", "python3"), f"{program} is no command that is known here"
        _check_python(words, call.is_part)


def _check_launched(arguments: object, is_part: bool) -> None:
    script, words = arguments.training_script, arguments.training_script_args
    _check_python([*(["-m"] if arguments.module else []), script, *words], is_part)


def _check_python(words: list[str], is_part: bool) -> None:
    if words[0] != "-m":
        script = Path(words[0])
        assert script.parent == Path("launch") and (ROOT / script).is_file(), f"found no {script}"
        _compose(script.stem, tuple(words[1:]), is_part)
    elif words[1] == "sae_dist":
        if words[2] != "COMMAND":
            _compose(words[2], tuple(words[3:]), is_part)
    elif words[1].startswith("sae_dist.apps."):
        _compose(words[1].rpartition(".")[2], tuple(words[2:]), is_part)
    elif words[1] == "benchmarks" and words[2:3] not in ([], ["NAME"], ["table"]):
        assert words[2] in BENCHMARKS, f"found no benchmark {words[2]}"
        options_of(module_of(words[2])).parse_args(words[3:])
    elif words[1] != "sparsify":  # another library's
        assert importlib.util.find_spec(words[1]), f"found no module {words[1]}"


def _check_batch(words: list[str], is_part: bool) -> None:
    if "--wrap" in words:
        (wrapped,) = calls(words[words.index("--wrap") + 1])
        return check(wrapped)
    script = next(word for word in words if not word.startswith("-"))
    start = words.index(script)
    command = re.search(r"^run python -m sae_dist (\w+)", (ROOT / script).read_text(), re.MULTILINE)
    assert command, f"{script} runs no command"
    return _compose(command[1], tuple(words[start + 1 :]), is_part)


def _check_container(words: list[str], is_part: bool) -> None:
    """What is built is there; what is run is a command of `sae-dist`, or a launcher's."""
    if words[0] == "build":
        assert (ROOT / words[words.index("-f") + 1]).is_file(), f"found no file of {words}"
        return
    image = next(place for place, word in enumerate(words) if word.startswith("sae-dist:"))
    inside = tuple(word for word in words[image + 1 :] if word not in _FLAGS)
    if inside:
        is_launched = inside[0] in ("torchrun", "accelerate", "python")
        check(Call(inside if is_launched else ("sae-dist", *inside), is_part))


def _check_extras(words: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].keys()
    for named in re.findall(r"\[([\w,]+)\]", " ".join(words)):
        assert set(named.split(",")) <= extras, f"found no extra {named}"


@functools.cache
def _compose(root: str, words: tuple[str, ...], is_part: bool) -> None:
    """Compose as `command.run` does; of a part what is missing may stand in the rest.

    Of `key=…` the key alone is looked up; `group=NAME`, a word in capitals, stands for any choice.
    """
    if root == "completion":
        assert completion.script(words[0])
        return
    assert root in console.COMMANDS, f"found no command {root}"
    if root == "train" and is_part:  # store=live harvest.…
        harvest = [word for word in words if word.startswith("harvest.")]
        if harvest:
            _compose("harvest", tuple(word.removeprefix("harvest.") for word in harvest), True)
        words = tuple(word for word in words if word not in harvest)
    open_keys = [word.partition("=")[0] for word in words if "…" in word]
    known = {word.partition("=")[0] for word in (help.words(root) if open_keys else [])}
    assert set(open_keys) <= known, f"found {open_keys}; expected keys of {root}"
    groups = {word.partition("=")[0] for word in help.words(root) if not word.endswith("=")}
    kept = [
        word
        for word in words
        if word not in _FLAGS
        and "…" not in word
        and not ((choice := _CHOICE.fullmatch(word)) and choice[1] in groups)
    ]
    is_part = is_part or len(kept) < len(words)
    if is_part:
        cli.compose_config(root, kept)
        return
    config = cli.compose(root, kept)
    if root == "train":
        harvest, sites = config.harvest, ["resid_post.0"]
        if harvest:
            sites = expand_sites(harvest.lm, harvest.sites, harvest.architecture)
        if config.coder.form.spans_sites:
            sites = [f"{kind}.{n}" for kind in ("resid_post", "mlp_in", "mlp_out") for n in (0, 1)]
        assert lay_out(config, dict.fromkeys(sites, 64))


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_commands_of_a_document(path: Path) -> None:
    for call in calls_in(path):
        check(call)


def test_the_commands_of_docstrings_and_comments() -> None:
    found = [(path, call) for path in sources() for call in calls_in(path)]
    assert {path.stem for path, _ in found} >= {*console.COMMANDS, "console", "ladder"}
    for _, call in found:
        check(call)


def test_nothing_is_overlooked() -> None:
    readme = calls_in(ROOT / "README.md")
    assert {call.words[0] for call in readme} >= {"make", "python", "torchrun", "accelerate"}
    assert sum("launch/train.py" in call.words for call in readme) >= 3
    assert len([call for path in documents() for call in calls_in(path)]) > 90


@pytest.mark.parametrize(
    "line",
    [
        "python launch/train.py store=s run=r coder=topq",
        "python launch/train.py store=s run=r coder.num_latent=4",
        "python launch/train.py run=r",
        "python launch/train.py store=s run=r coder=topk_transcoder",
        "python launch/train.py store=s run=r 'sweep.grids=[{coder.kk:[1,2]}]'",
        "python launch/trains.py store=s run=r",
        "python launch/harvest.py lm=pythia_70 …",
        "python launch/harvest.py text.pat=… …",
        "sae-dist plan +experiment=gpt2:ladder train.tokenz=1B",
        "python -m benchmarks.no_such_thing",
        "python -m benchmarks no_such_thing",
        "torchrun --procs-per-node 2 -m sae_dist evaluate run=r",
        "accelerate launch --config_file launch/accelerate/zero4.yaml launch/harvest.py …",
        "sbatch launch/slurm/trains.sbatch …",
        "sbatch launch/slurm/train.sbatch store=s run=r +sweep=width_ladders",
        "sae-dist trian store=s run=r",
        "make quick",
        "pip install 'sae-dist[cuda]'",
        "docker build -f docker/rocm.Dockerfile .",
        "docker run --rm sae-dist:cpu trian",
        "frobnicate store=s",
        "sae-dist report run=r (drawn)",
    ],
)
def test_a_mistake_is_found(line: str) -> None:
    with pytest.raises((AssertionError, UserError, SystemExit, FileNotFoundError)):
        for call in calls(line):
            check(call)
