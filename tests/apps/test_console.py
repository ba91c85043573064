"""All commands under one name, and the shells that complete them."""

import functools
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sae_dist.apps import completion, console
from sae_dist.apps.help import description


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["sae-dist", *arguments])
    console.main()


@functools.cache
def bash_script() -> str:
    return completion.script("bash")


def completed(line: str, number: int, breaks: str = " =:") -> list[str]:
    """What bash offers at the end of `line`, in its word `number`."""
    words = " ".join(line.replace("=", " = ").split())
    code = f"""COMP_WORDBREAKS='{breaks}' COMP_LINE='{line}' COMP_POINT={len(line)}
        COMP_WORDS=({words}) COMP_CWORD={number}
        _sae_dist; printf '%s\\n' "${{COMPREPLY[@]}}" """
    script = bash_script() + "\n" + code
    found = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert found.stderr == ""
    return found.stdout.split()


def test_without_a_command_all_are_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch)
    out = capsys.readouterr().out
    for name in console.COMMANDS:
        assert f"  {name} " in out and description(name).splitlines()[0] in out


def test_a_command_gets_the_other_arguments(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "train", "--cfg", "coder=topk", "coder.k=7", "store=s", "run=r")
    assert "  k: 7" in capsys.readouterr().out


def test_a_mistyped_command_is_answered_with_the_nearest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, "trian")
    assert ended.value.code == 2
    assert "did you mean train?" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_commands_keys_and_choices() -> None:
    assert completed("sae-dist tr", 1) == ["train"]
    assert completed("sae-dist train coder.num_l", 2) == ["coder.num_latents="]
    assert "topk" in completed("sae-dist train coder=to", 4)
    assert "coder=topk" in completed("sae-dist train coder=to", 2, breaks=" ")
    assert "+sweep=width_ladder" in completed("sae-dist train +sw", 2)
    assert completed("sae-dist verify coder", 2) == []
    line, suite = "sae-dist import_coder path=published:goodf", "goodfire-llama-3.1-8b-instruct/"
    assert suite in completed(line, 6)
    assert f"published:{suite}" in completed(line, 4, breaks=" =")
    assert f"path=published:{suite}" in completed(line, 2, breaks=" ")
    assert completed("sae-dist train init_from=published:llama-scope-r1", 6) == [
        "llama-scope-r1-distill/"
    ]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_can_read_their_script(shell: str, tmp_path: Path) -> None:
    script = completion.script(shell)
    assert all(name in script for name in (*console.COMMANDS, "coder=topk", "store="))
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed; its words were checked, its grammar not")
    path = tmp_path / "script"
    path.write_text(script)
    subprocess.run([shell, "-n", str(path)], check=True)


def test_an_unknown_shell_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, "completion", "tcsh")
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "error: found tcsh; expected one of bash, zsh, fish; name your shell\n"
    )
