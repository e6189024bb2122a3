"""bash, zsh and fish: what each is given to install, how it asks, and the form of its answer.

A shell sets `_DDPO_COMPLETE` to its name and `_DDPO_COMPLETE_LINE` to the line up to the cursor, runs `ddpo`
and reads candidates from stdout. A candidate that ends in '=', '/' or ',' gets no space behind it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ddpo_cli.completion.lines import Line, answer, read
from ddpo_cli.completion.values import Answer, Candidate
from ddpo_core.errors import UsageError
from ddpo_core.nearest import did_you_mean

SHELL, LINE, BREAKS = "_DDPO_COMPLETE", "_DDPO_COMPLETE_LINE", "_DDPO_COMPLETE_BREAKS"

# The first line holds compopt's options, the others are candidates for what stands behind the last of bash's
# own word breaks.
BASH = """\
_ddpo() {
    local options
    { read -r options; mapfile -t COMPREPLY; } < <(
        _DDPO_COMPLETE=bash _DDPO_COMPLETE_LINE="${COMP_LINE:0:COMP_POINT}" \\
            _DDPO_COMPLETE_BREAKS="$COMP_WORDBREAKS" "$1" 2>/dev/null
    )
    [[ $options ]] && compopt $options
}
complete -F _ddpo ddpo
"""

# First line: files, folders or nothing. Second: what of the word is settled. Then candidates as _describe
# reads them, each behind a '+' (more is to come, so no space) or a '-'.
ZSH = """\
#compdef ddpo
_ddpo() {
    local -a answer open closed
    local line
    answer=("${(@f)$(_DDPO_COMPLETE=zsh _DDPO_COMPLETE_LINE="${(j: :)words[1,CURRENT-1]} $PREFIX" \\
        "${words[1]}" 2>/dev/null)}")
    [[ $answer[1] == files ]] && _files
    [[ $answer[1] == folders ]] && _files -/
    [[ -n $answer[2] ]] && compset -P "${(b)answer[2]}"
    for line in "${(@)answer[3,-1]}"; do
        case $line in
            +*) open+=("${line#+}") ;;
            -*) closed+=("${line#-}") ;;
        esac
    done
    _describe 'value' closed -- open -S ''
}
if [[ $funcstack[1] == _ddpo ]]; then _ddpo "$@"; else compdef _ddpo ddpo; fi
"""

# Candidates with their help behind a tab; a line without a candidate asks for files or folders.
FISH = """\
function __ddpo_complete
    for line in (env _DDPO_COMPLETE=fish _DDPO_COMPLETE_LINE=(commandline -cp) ddpo 2>/dev/null)
        switch $line
            case \\tfiles
                __fish_complete_path (commandline -ct)
            case \\tfolders
                __fish_complete_directories (commandline -ct)
            case '*'
                echo $line
        end
    end
end
complete --command ddpo --no-files --arguments '(__ddpo_complete)'
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def respond(environ: Mapping[str, str], program: Callable[[Sequence[str]], Any]) -> str:
    """The answer to a shell that asks. `program` makes the commands that a line's words can name."""
    line = read(environ.get(LINE, ""))
    found = answer(program(line.words), line)
    form = {"bash": _for_bash, "zsh": _for_zsh, "fish": _for_fish}[environ[SHELL]]
    return form(found, line, environ.get(BREAKS, ""))


def _is_open(candidate: Candidate) -> bool:
    return candidate.value.endswith(("=", "/", ","))


def _for_bash(found: Answer, line: Line, breaks: str) -> str:
    options = {"files": "-o default", "folders": "-o plusdirs", "": ""}[found.paths]
    if any(map(_is_open, found.candidates)):
        options += " -o nospace"
    settled = 0 if line.quoted else max((line.current.rfind(mark) for mark in breaks), default=-1) + 1
    values = [candidate.value[settled:] for candidate in found.candidates]
    if not line.quoted:
        values = [re.sub(r"[^\w@%+=:,./~-]", r"\\\g<0>", value) for value in values]
    return "\n".join([options.strip(), *values])


def _for_zsh(found: Answer, line: Line, _: str) -> str:
    settled = line.current[: max(line.current.rfind(mark) for mark in ",=") + 1]
    if not all(candidate.value.startswith(settled) for candidate in found.candidates):
        settled = ""
    rows = []
    for candidate in found.candidates:
        value = candidate.value[len(settled) :].replace("\\", "\\\\").replace(":", "\\:")
        mark = "+" if _is_open(candidate) else "-"
        rows.append(mark + value + (f":{_one_line(candidate.help)}" if candidate.help else ""))
    return "\n".join([found.paths, settled, *rows])


def _for_fish(found: Answer, line: Line, _: str) -> str:
    rows = [
        candidate.value + (f"\t{_one_line(candidate.help)}" if candidate.help else "")
        for candidate in found.candidates
    ]
    return "\n".join([*rows, *([f"\t{found.paths}"] if found.paths else [])])


def _one_line(text: str) -> str:
    return " ".join(text.split())


# ---- installing --------------------------------------------------------------------------------------


def tell(shell: str, *, install: bool) -> None:
    """`--install-completion` or `--show-completion`."""
    shell = chosen(shell)
    if not install:
        print(SCRIPTS[shell], end="")
        return
    for file in installed(shell):
        print(f"wrote {file}")
    print(f"Completion works in every {shell} that is started from now on.")


def chosen(shell: str) -> str:
    """The shell that was named, or the one that runs this. Raises `UsageError`."""
    shell = shell or running()
    if shell not in SCRIPTS:
        got = f"'{shell}'{did_you_mean(shell, SCRIPTS)}" if shell else "none"
        raise UsageError(
            f"the shell to complete in must be one of {', '.join(SCRIPTS)}; got {got}",
            hint="name the one to complete in: --shell bash",
        )
    return shell


def running() -> str:
    """The shell this was started from, else the user's own."""
    import shellingham  # type: ignore[import-untyped]

    try:
        return str(shellingham.detect_shell()[0])
    except shellingham.ShellDetectionFailure:
        return Path(os.environ.get("SHELL", "")).name


def installed(shell: str) -> list[Path]:
    """Write the script where the shell looks for it; the files that were changed."""
    home = Path.home()
    if shell == "fish":
        config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
        return [_written(config / "fish" / "completions" / "ddpo.fish", FISH)]
    if shell == "zsh":
        script = _written(home / ".zfunc" / "_ddpo", ZSH)
        startup = Path(os.environ.get("ZDOTDIR") or home) / ".zshrc"
        return [script, *_with_line(startup, "fpath+=~/.zfunc; autoload -Uz compinit; compinit")]
    script = _written(home / ".bash_completions" / "ddpo.sh", BASH)
    return [script, *_with_line(home / ".bashrc", f"source '{script}'")]


def _written(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def _with_line(file: Path, line: str) -> list[Path]:
    """The start-up file with that line at its end, unless it has it."""
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    if line in text.splitlines():
        return []
    gap = "" if not text or text.endswith("\n") else "\n"
    return [_written(file, f"{text}{gap}{line}\n")]
