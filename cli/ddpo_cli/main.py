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
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer

from ddpo_cli import listing
from ddpo_cli.console import emit_json, style
from ddpo_cli.doctor import doctor
from ddpo_core.errors import DdpoError, EnvironmentFault, UsageError

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
) -> None:
    if version:
        listing.print_versions()
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; the error boundary of the whole program."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments or os.environ.get("DDPO_DEBUG", "0") not in ("", "0")
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        app = make_app(next((argument for argument in arguments if argument in RUNNING), ""))
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
        return "UsageError", error.format_message(), f"`{command} --help` shows what it takes", 2  # type: ignore[attr-defined]
    return kind, f"unexpected {kind}: {error}", "the same command with --debug shows where it happened", 1


def _print_failure(message: str, hint: str) -> None:
    print(f"{style('error:', 'red', sys.stderr)} {message}", file=sys.stderr)
    if hint:
        print(f"{style('hint:', 'cyan', sys.stderr)}  {hint}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
