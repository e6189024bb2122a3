"""The `ddpo` command: which commands there are, and the one place where errors become exit codes.

    0    done
    1    the run failed, or something unexpected happened
    2    what was asked for cannot be done: usage, settings, an unknown name
    3    the environment lacks something: a plugin, a package, weights; `ddpo doctor` found a fault
    130  interrupted

Results go to stdout and diagnostics to stderr. A command that was given `--json` tells of its failure on
stdout too, as {"error": {"kind", "message", "hint"}}.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer

from ddpo_cli import listing
from ddpo_cli.console import emit_json, style
from ddpo_cli.doctor import doctor
from ddpo_core.errors import DdpoError, EnvironmentFault, UsageError
from ddpo_core.nearest import did_you_mean

# Click's usage error, wherever Typer keeps it: its own module since 0.26, the package `click` before.
_TyperUsage: type[Exception] = typer.BadParameter.__mro__[1]

# What these do, told here so that drawing `ddpo --help` does not import them with all their settings.
RUNNING = {
    "train": ("train", "Fine-tune a text-to-image model towards rewards."),
    "sample": ("sample", "Draw pictures from a run or a model."),
    "eval": ("evaluate", "Score a model before and after training, on many rewards and prompts."),
    "report": ("report", "Write a run's report.html anew."),
}  # name → (module and function, help)


def make_app(first: str = "") -> typer.Typer:
    """The commands. Of those in RUNNING only the one that `first` names is imported."""
    app = typer.Typer(
        name="ddpo",
        help="Train diffusion models on anything you can score. A reward is a plugin: pip install one, use "
        "its name.",
        rich_markup_mode="rich" if first else None,  # boxes cost 0.1 s, which long pages are worth
        add_completion=False,  # our own, see `completion`
        pretty_exceptions_enable=False,
        pretty_exceptions_show_locals=False,  # locals can hold tokens
    )
    app.callback(invoke_without_command=True)(root)
    for name, (function, told) in RUNNING.items():
        if name == first:
            app.command(name)(getattr(import_module(f"ddpo_cli.{function}"), function))
        else:
            app.command(name, help=told)(elsewhere)
    for noun in listing.NOUNS:
        app.add_typer(listing.commands_for(noun), name=noun.command)
    app.add_typer(listing.plugins_app, name="plugins")
    app.command(short_help="Check versions, devices and plugins.")(doctor)
    return app


def elsewhere() -> None:
    """Stands for a command that this line does not name; it is never called."""


def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version of ddpo and of each plugin.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks; may stand anywhere in the line.")
    ] = False,
    install_completion: Annotated[
        bool, typer.Option("--install-completion", help="Let the shell complete names and options.")
    ] = False,
    show_completion: Annotated[
        bool, typer.Option("--show-completion", help="Show the script that does so.")
    ] = False,
    shell: Annotated[
        str,
        typer.Option(
            help="The shell that completes: bash, zsh or fish (default: this one).",
            metavar="NAME",
            show_default=False,
        ),
    ] = "",
) -> None:
    if version:
        listing.print_versions()
    elif install_completion or show_completion:
        from ddpo_cli.completion import shells

        shells.tell(shell, install=install_completion)
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def complete() -> int:
    """Answer the shell that asks how its line goes on."""
    from ddpo_cli.completion import shells

    def program(words: Sequence[str]) -> object:
        return typer.main.get_command(make_app(running(words)))

    try:
        print(shells.respond(os.environ, program))
    except Exception as error:  # on the screen of somebody who is typing it would only be in the way
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def running(words: Sequence[str]) -> str:
    """The running command that a line names, or nothing."""
    return next((word for word in words if word in RUNNING), "")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code. Without `argv` it is the program, and ends that, too."""
    if argv is not None:
        return run(list(argv))
    return complete() if "_DDPO_COMPLETE" in os.environ else leave(run(sys.argv[1:]))


def leave(code: int) -> int:
    """The exit code; over an abandoned call of a reward end here, since its thread cannot be stopped."""
    calls = sys.modules.get("ddpo_core.calls")  # where no reward was called it is not imported
    if calls is not None and calls.abandoned():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; the error boundary of the whole program."""
    debug = "--debug" in arguments or os.environ.get("DDPO_DEBUG", "0") not in ("", "0")
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        app = make_app(running(arguments))
        code = app(args=arguments, prog_name="ddpo", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except Exception as error:
        if debug:
            traceback.print_exc()
        kind, message, hint, code = _told(error)
        if "--json" in arguments:
            emit_json({"error": {"kind": kind, "message": message, "hint": hint}})
        else:
            _print_failure(message, hint)
        return code


def _told(error: Exception) -> tuple[str, str, str, int]:
    """Kind, message, hint and exit code of a failure."""
    kind = type(error).__name__
    if isinstance(error, DdpoError):
        code = 2 if isinstance(error, UsageError) else 3 if isinstance(error, EnvironmentFault) else 1
        return kind, str(error), error.hint, code
    if isinstance(error, _TyperUsage):
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "ddpo"
        return "UsageError", _usage(error, context), f"`{command} --help` shows what it takes", 2
    return kind, f"unexpected {kind}: {error}", "the same command with --debug shows where it happened", 1


def _usage(error: Any, context: Any) -> str:
    """What is wrong with a line; a name that is not there with the nearest one that is."""
    message = str(error.format_message())
    if context is None:
        return message
    if hasattr(error, "option_name") and hasattr(error, "possibilities"):
        parameters = context.command.get_params(context)
        valid = [name for p in parameters for name in (*p.opts, *p.secondary_opts) if name.startswith("--")]
        typed = error.option_name
        return f"`{context.command_path}` has no option '{typed}'{did_you_mean(typed, valid)}"
    found = re.match("No such command '(.+?)'", message)
    if not found:
        return message
    typed, known = found[1], context.command.commands
    meant = did_you_mean(typed, known)
    inner = [f"{name} {typed}" for name, group in known.items() if typed in getattr(group, "commands", ())]
    if inner:
        meant = f"; did you mean '{inner[0]}'?"
    return f"`{context.command_path}` has no command '{typed}'{meant}"


def _print_failure(message: str, hint: str) -> None:
    print(f"{style('error:', 'red', sys.stderr)} {message}", file=sys.stderr)
    if hint:
        print(f"{style('hint:', 'cyan', sys.stderr)}  {hint}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
