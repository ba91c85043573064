"""Print what makes a shell complete commands, keys and choices.

    source <(sae-dist completion bash)          # in ~/.bashrc
    source <(sae-dist completion zsh)           # in ~/.zshrc, after compinit
    sae-dist completion fish | source           # in config.fish

The words are written into the script: completing starts no Python. Print it again after an update.
"""

from collections.abc import Sequence

from sae_dist.apps.help import words
from sae_dist.apps.terminal import show
from sae_dist.common.errors import UserError
from sae_dist.config import COMMANDS

# Bash breaks words at "=" and ":", and then replaces only what follows them. Where no
# word fits, it offers files.
_BASH = """_sae_dist() {
    local line=${COMP_LINE:0:COMP_POINT} choices
    local current=${line##* }
    if (( COMP_CWORD == 1 )); then choices="@COMMANDS@"; else
        case ${COMP_WORDS[1]} in
@CASES@
        esac
    fi
    mapfile -t COMPREPLY < <(compgen -W "$choices" -- "$current")
    if [[ ${COMPREPLY[0]} == *[=/] ]]; then compopt -o nospace 2> /dev/null; fi
    local end
    for end in = :; do
        if [[ $current == *$end* && $COMP_WORDBREAKS == *$end* ]]; then
            COMPREPLY=("${COMPREPLY[@]#"${current%"$end"*}$end"}")
            current=${current##*"$end"}
        fi
    done
}
complete -o default -F _sae_dist sae-dist"""
_BASH_CASE = '            {command}) choices="{words}" ;;'

_ZSH = """_sae_dist() {
    local -a choices
    if (( CURRENT == 2 )); then choices=(@COMMANDS@); else
        case $words[2] in
@CASES@
        esac
    fi
    compadd -Q -S '' -- $choices
}
compdef _sae_dist sae-dist"""
_ZSH_CASE = "            {command}) choices=({words}) ;;"

_FISH = """complete -c sae-dist -f
complete -c sae-dist -n __fish_use_subcommand -a "@COMMANDS@"
@CASES@"""
_FISH_CASE = 'complete -c sae-dist -n "__fish_seen_subcommand_from {command}" -a "{words}"'

_SHELLS = {"bash": (_BASH, _BASH_CASE), "zsh": (_ZSH, _ZSH_CASE), "fish": (_FISH, _FISH_CASE)}


def run(arguments: Sequence[str]) -> None:
    """The command."""
    if "--help" in arguments or "-h" in arguments:
        show(__doc__ or "")
    elif len(arguments) == 1 and arguments[0] in _SHELLS:
        show(script(arguments[0]))
    else:
        found = " ".join(arguments) or "nothing"
        raise UserError(f"found {found}; expected one of {', '.join(_SHELLS)}; name your shell")


def script(shell: str) -> str:
    """What `shell` is to source."""
    frame, case = _SHELLS[shell]
    cases = [case.format(command=name, words=" ".join(words(name))) for name in COMMANDS]
    return frame.replace("@COMMANDS@", " ".join(COMMANDS)).replace("@CASES@", "\n".join(cases))
