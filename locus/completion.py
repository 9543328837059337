"""`locus completion SHELL`: prints a script with which a shell completes what is typed after `locus`.

    locus completion bash > ~/.local/share/bash-completion/completions/locus
    locus completion zsh > ~/.zfunc/_locus                  in a folder of $fpath
    locus completion fish > ~/.config/fish/completions/locus.fish

It completes commands and, where a command takes the flags of a run, those flags, every key of the configuration and
the presets after --config. The script holds them as they are now: print it again after an update.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

from configs.layers import preset_names
from configs.load import ALLOW, SWITCHES
from configs.output import protect_output
from configs.tree import sections
from locus.commands import COMMANDS

BASH = """\
# bash completion for locus, printed by: locus completion bash
_locus() {
    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}"
    COMPREPLY=()
    if [[ $COMP_CWORD -eq 1 ]]; then
        COMPREPLY=($(compgen -W "@COMMANDS@ --help --version" -- "$word"))
        return
    fi
    case "${COMP_WORDS[1]}" in
    @RUN_COMMANDS@)
        if [[ $before == --config ]]; then
            COMPREPLY=($(compgen -W "@PRESETS@" -- "$word"))
        elif [[ $word == -* ]]; then
            COMPREPLY=($(compgen -W "@FLAGS@" -- "$word"))
        fi
        ;;
    completion) COMPREPLY=($(compgen -W "@SHELLS@" -- "$word")) ;;
    esac
}
complete -o default -F _locus locus
"""

ZSH = """\
#compdef locus
# zsh completion for locus, printed by: locus completion zsh
_locus() {
    if (( CURRENT == 2 )); then
        local -a described=(
@DESCRIBED@
        )
        _describe command described
        return
    fi
    case $words[2] in
    @RUN_COMMANDS@)
        if [[ $words[CURRENT-1] == --config ]]; then
            compadd -- @PRESETS@
            _files
        elif [[ $words[CURRENT] == -* ]]; then
            compadd -- @FLAGS@
        else
            _files
        fi
        ;;
    completion) compadd -- @SHELLS@ ;;
    *) _files ;;
    esac
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _locus "$@"
else
    compdef _locus locus
fi
"""


def flags() -> list[str]:
    """Every flag of a run, the keys of the configuration last."""
    keys = dict.fromkeys(key.path for section in sections() for key in section.keys)
    return [f"--{name}" for name in ("config", *SWITCHES, ALLOW, "help", *keys)]


def run_commands() -> list[str]:
    """The commands that take them."""
    return [name for name, command in COMMANDS.items() if command.run_flags]


def filled(template: str) -> str:
    """A script of its template."""
    words = {
        "COMMANDS": " ".join(COMMANDS),
        "RUN_COMMANDS": " | ".join(run_commands()),
        "DESCRIBED": "\n".join(" " * 12 + shlex.quote(f"{name}:{command.does}") for name, command in COMMANDS.items()),
        "PRESETS": " ".join(preset_names()),
        "FLAGS": " ".join(flags()),
        "SHELLS": " ".join(SHELLS),
    }
    for name, value in words.items():
        template = template.replace(f"@{name}@", value)
    return template


def fish() -> str:
    """The script for fish, one line per word."""
    lines = ["# fish completion for locus, printed by: locus completion fish"]
    for name, command in COMMANDS.items():
        lines.append(f"complete -c locus -f -n __fish_use_subcommand -a {name} -d {shlex.quote(command.does)}")
    of_a_run = f"-n '__fish_seen_subcommand_from {' '.join(run_commands())}'"
    for flag in flags():
        name = flag.removeprefix("--")
        given = "" if name in (*SWITCHES, "help") else " -r"
        presets = f" -a '{' '.join(preset_names())}'" if name == "config" else ""
        lines.append(f"complete -c locus {of_a_run} -l {name}{given}{presets}")
    lines.append(f"complete -c locus -f -n '__fish_seen_subcommand_from completion' -a '{' '.join(SHELLS)}'")
    return "\n".join(lines) + "\n"


SHELLS = {"bash": lambda: filled(BASH), "zsh": lambda: filled(ZSH), "fish": fish}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="locus completion", description="Print a completion script.")
    parser.add_argument("shell", choices=SHELLS, help="the shell to complete for")
    print(SHELLS[parser.parse_args(arguments).shell](), end="")
    return 0


if __name__ == "__main__":
    protect_output()
    sys.exit(main())
