"""Shell completion: what is offered where, and that a real bash shows it."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer

from ddpo_cli import main as program
from ddpo_cli.completion import shells
from ddpo_cli.completion.lines import Line, read
from ddpo_cli.completion.values import Place, values_of
from ddpo_cli.main import main

BREAKS = " \t\n\"'><=;|&(:"  # bash's own
RESERVED = ["as=", "on_error=", "tries=", "time_limit="]


def commands(words: Sequence[str]) -> Any:
    return typer.main.get_command(program.make_app(program.running(words)))


def answered(shell: str, line: str) -> str:
    """What a shell gets for a line up to its cursor."""
    asked = {shells.SHELL: shell, shells.LINE: f"ddpo {line}", shells.BREAKS: BREAKS}
    return shells.respond(asked, commands)


def offered(line: str) -> list[str]:
    """The whole words that the word at the cursor may become."""
    return [row.partition("\t")[0] for row in answered("fish", line).splitlines()]


@pytest.fixture
def good(install: Callable[..., Path]) -> Path:
    """Only ddpo's own parts and the reward `brightness` (gamma, channel) are installed."""
    return install("good")


# ---- what is offered ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tra", ["train"]),
        ("rewards s", ["show", "score"]),
        ("rewards show ", ["brightness"]),
        ("rewards score br", ["brightness"]),
        ("models show sd", ["sd3", "sdxl", "sd"]),
        ("models show stable", ["stable-diffusion"]),
        ("estimators show ddpo", ["ddpo-is", "ddpo-sf"]),
        ("train --reward ", ["brightness"]),
        ("train -r brightn", ["brightness"]),
        ("train --watch brightn", ["brightness"]),
        ("train --reward=brightn", ["--reward=brightness"]),
        ("train --reward ddpo-r", ["ddpo-reward-brightness/brightness"]),
        ("train --reward nosuch,", []),
        ("train --reward brightness:0", []),
        ("train --reward brightness,", ["gamma=", "channel=", *RESERVED]),
        ("train --reward bright:0.5,ch", ["channel="]),
        ("train --reward brightness,gamma=2,", ["channel=", *RESERVED]),
        ("train --reward brightness,channel=", ["channel=red", "channel=green", "channel=blue"]),
        ("train --reward brightness,channel=g", ["channel=green"]),
        ("train --reward brightness:-1,on_error=", ["on_error=raise", "on_error=drop", "on_error=impute"]),
        ("train --reward brightness,gamma=", []),  # a number
        ("train --constraint brightness,m", ["min=", "max="]),
        ("train --advantages gr", ["group"]),
        ("train --advantages group,", ["size="]),
        ("train --preset paper/c", ["paper/compressibility"]),
        ("train --mixer p", ["pcgrad"]),
        ("train --tracker ", ["tensorboard", "wandb", "none"]),
        ("sample pocket --device c", ["cpu", "cuda"]),
        ("train --lora-targets at", ["attention"]),
        ("train --sampler ddim,e", ["eta="]),
        ("train --prompts object-pairs,split=h", ["split=held_out"]),
        ("train --prompts object-pairs,article=", ["article=true", "article=false"]),
        ("train --model sdx", ["sdxl"]),
        ("train --image-c", ["--image-count"]),
        ("train --no-s", ["--no-self-check"]),
        ("train --epochs 3 --epo", []),  # given already, and takes one value
        ("train --reward brightness --rew", ["--reward"]),  # takes several
        ("train --epochs ", []),
        ("train --prompt ", []),
    ],
)
def test_names_options_and_choices_are_offered(good: Path, line: str, expected: list[str]) -> None:
    word = line.rpartition(" ")[2]
    settled = word[: word.rfind(",") + 1]
    assert offered(line) == [settled + value for value in expected]


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("train --resume ", "folders"),
        ("train --out r", "folders"),
        ("report ", "folders"),
        ("eval runs/a ", "folders"),
        ("sample ./", "folders"),
        ("train --config ", "files"),
        ("train --plugin ", "files"),
        ("train --task ", "files"),
        ("train --model ./", "folders"),
        ("train --prompts ./", "files"),
        ("rewards score brightness --images ", "files"),
        ("rewards score brightness --prompts ", "files"),
    ],
)
def test_the_shell_is_asked_for_files_and_folders(good: Path, line: str, asked: str) -> None:
    assert answered("fish", line).splitlines()[-1] == f"\t{asked}"


def test_a_run_or_a_model_may_be_drawn_from(good: Path) -> None:
    assert answered("fish", "sample sdx").splitlines() == [
        "sdxl\tStable Diffusion XL: two text encoders, pictures of 1024 × 1024",
        "\tfolders",
    ]


def test_files_inside_a_spec_are_offered_as_no_shell_would(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "cats.txt").touch()
    monkeypatch.chdir(tmp_path)
    assert offered("train --prompts file,path=li") == ["file,path=lists/"]
    assert offered("train --prompts file,path=lists/c") == ["file,path=lists/cats.txt"]


def test_a_plugin_file_that_the_line_names_is_read(good: Path) -> None:
    toys = Path(__file__).parent / "toy_world.py"
    assert offered(f"train --plugin {toys} --reward va") == ["variety"]
    assert offered("train --plugin no/such.py --reward brightn") == ["brightness"]


def test_names_that_two_plugins_share_are_offered_with_their_distribution(
    install: Callable[..., Path],
) -> None:
    install("good", "name-clash")
    assert offered("train --reward ") == [
        "acme-brightness/brightness",
        "ddpo-reward-brightness/brightness",
    ]


FREE = {"shell", "rewards new name"}  # one is found out where it is not given, one is the user's own


def test_every_parameter_that_is_not_a_number_or_a_free_text_is_completed(good: Path) -> None:
    forgotten = set()
    for running in program.RUNNING:
        for path, parameter in parameters(commands([running]), []):
            answer = values_of(Place(path, parameter, "", []))
            if not answer.candidates and not answer.paths:
                forgotten.add(" ".join([*path, parameter.name]))
    assert forgotten == FREE


def parameters(command: Any, path: list[str]) -> Iterator[tuple[list[str], Any]]:
    """Every parameter that takes a value, but for numbers and texts of the user's own."""
    for parameter in command.params:
        is_argument = parameter.param_type_name == "argument"
        if parameter.metavar not in (None, "TEXT", "N", "X", "N,N…") or is_argument:
            yield path, parameter
    for name, inner in getattr(command, "commands", {}).items():
        yield from parameters(inner, [*path, name])


# ---- the line ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("ddpo train ", Line(["train"], "")),
        ("ddpo train --re", Line(["train"], "--re")),
        ("ddpo train --prompt 'a cat' --reward jp", Line(["train", "--prompt", "a cat", "--reward"], "jp")),
        ("ddpo train --prompt 'a cat", Line(["train", "--prompt"], "a cat", quoted=True)),
        ("ddpo report my\\ run", Line(["report"], "my run")),
        ("ddpo report my\\ ", Line(["report"], "my ")),
    ],
)
def test_a_line_is_split_as_a_shell_splits_it(text: str, line: Line) -> None:
    assert read(text) == line


# ---- what each shell is told -------------------------------------------------------------------------


def test_bash_gets_what_follows_its_last_word_break(good: Path) -> None:
    assert answered("bash", "train --reward brightness:0.5,ch") == "-o nospace\n0.5,channel="
    assert answered("bash", "train --reward brightness,channel=g") == "\ngreen"
    assert answered("bash", "train --reward 'brightness,channel=g") == "\nbrightness,channel=green"
    assert answered("bash", "train --resume ") == "-o plusdirs"


def test_zsh_gets_what_is_settled_and_then_values_with_their_help(good: Path) -> None:
    rows = answered("zsh", "train --reward brightness:0.5,").splitlines()
    assert rows[:4] == [
        "",
        "brightness:0.5,",
        "+gamma=:power applied first (1.0)",
        "+channel=:one channel only",
    ]
    assert answered("zsh", "train --reward=brightness,channel=g").splitlines()[1:] == [
        "--reward=brightness,channel=",
        "-green",
    ]
    assert answered("zsh", "train --config ") == "files\n"


def test_completion_imports_nothing_heavy(good: Path) -> None:
    code = (
        "import sys; from ddpo_cli.main import main; main(); "
        "print({'torch', 'numpy', 'PIL', 'rich', 'diffusers'} & set(sys.modules), file=sys.stderr)"
    )
    asked = {shells.SHELL: "fish", shells.LINE: "ddpo train --reward bri"}
    environ = {**os.environ, "PYTHONPATH": str(good), **asked}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=True
    )
    assert (run.stdout, run.stderr) == ("brightness\tMean brightness of the picture\n", "set()\n")


# ---- installing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shell", "written"),
    [
        ("bash", [".bash_completions/ddpo.sh", ".bashrc"]),
        ("zsh", [".zfunc/_ddpo", ".zshrc"]),
        ("fish", [".config/fish/completions/ddpo.fish"]),
    ],
)
def test_installing_twice_changes_nothing_more(
    shell: str,
    written: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("XDG_CONFIG_HOME", "ZDOTDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".bashrc").write_text("alias l=ls")
    assert main(["--install-completion", "--shell", shell]) == 0
    first = {name: (tmp_path / name).read_text() for name in written}
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("wrote")] == [
        f"wrote {tmp_path / name}" for name in written
    ]
    assert first[written[0]] == shells.SCRIPTS[shell]
    assert (tmp_path / ".bashrc").read_text().startswith("alias l=ls")
    assert main(["--install-completion", "--shell", shell]) == 0
    assert {name: (tmp_path / name).read_text() for name in written} == first


def test_the_script_is_shown_and_an_unknown_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--show-completion", "--shell", "fish"]) == 0
    assert capsys.readouterr().out == shells.FISH
    assert main(["--show-completion", "--shell", "zhs"]) == 2
    assert "bash, zsh, fish; got 'zhs'; did you mean 'zsh'?" in capsys.readouterr().err


# ---- a real bash -------------------------------------------------------------------------------------

# Ctrl-G prints the line as it stands between two marks
SHOW_LINE = r"""bind -x '"\C-g": printf "\n<<%s>>\n" "$READLINE_LINE"'"""


class Bash:
    """An interactive bash in a pseudo-terminal."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self.process, self.terminal = pty.fork()
        if self.process == 0:
            os.chdir(folder)
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], environ)

    def send(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def until(self, mark: str, seconds: float = 20) -> str:
        """What it printed up to a mark."""
        text, end = "", time.monotonic() + seconds
        while mark not in text:
            ready, _, _ = select.select([self.terminal], [], [], max(0, end - time.monotonic()))
            assert ready, f"waited {seconds} s for {mark!r}; got {text!r}"
            text += os.read(self.terminal, 4096).decode()
        return text

    def completed(self, line: str) -> str:
        """The line after one TAB."""
        self.send(f"{line}\t\x07")
        shown = self.until(">>\r\n").partition("<<")[2].partition(">>")[0]
        self.send("\x15")  # Ctrl-U: an empty line again
        return shown


@pytest.fixture
def bash(good: Path, tmp_path: Path) -> Iterator[Bash]:
    """A bash with the completion sourced, and no other set-up."""
    if not shutil.which("bash"):
        pytest.skip("there is no bash here")
    (tmp_path / "ddpo.sh").write_text(shells.BASH + SHOW_LINE + "\necho read''y\n")
    (tmp_path / "ddpo").write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "from ddpo_cli.main import main; main()" "$@"\n'
    )
    (tmp_path / "ddpo").chmod(0o755)
    (tmp_path / "runs").mkdir()
    path = f"{tmp_path}:{os.environ['PATH']}"
    made = Bash(tmp_path, {**os.environ, "PATH": path, "PYTHONPATH": str(good), "TERM": "dumb"})
    made.send(". ./ddpo.sh\n")
    made.until("ready")
    yield made
    made.send("\x15exit\n")
    os.waitpid(made.process, 0)
    os.close(made.terminal)


def test_a_real_bash_completes_names_options_and_values(bash: Bash) -> None:
    for line, whole in {
        "ddpo train --reward brightn": "ddpo train --reward brightness ",
        "ddpo train --reward brightness:0.5,ch": "ddpo train --reward brightness:0.5,channel=",
        "ddpo train --reward brightness,channel=g": "ddpo train --reward brightness,channel=green ",
        "ddpo train --reward=brightness:-1,on_": "ddpo train --reward=brightness:-1,on_error=",
        "ddpo report r": "ddpo report runs/",
    }.items():
        assert bash.completed(line) == whole
