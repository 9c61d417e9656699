"""The command line. Every command is a few lines: read the options, call the library, print a table.

Nothing heavy is imported before a command runs, so that --help answers at once.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from drive_wm import __version__
from drive_wm.cli import evaluate, use
from drive_wm.cli.data import data
from drive_wm.cli.options import Option, group
from drive_wm.cli.train import ablation, scaling, train

app = group("A driving world model that one can train, question, steer and drive in.")
app.add_typer(data, name="data")
app.add_typer(train, name="train")
app.command("scaling")(scaling)
app.command("ablation")(ablation)
app.command("generate")(use.generate)
app.command("plan")(use.plan)
app.command("explain")(use.explain)
app.command("evaluate")(evaluate.evaluate)
app.command("compare")(evaluate.compare)
app.command("evaluate-validity")(evaluate.validity)
app.command("evaluate-world")(evaluate.evaluate_world)
app.command("evaluate-language")(evaluate.language)
app.command("evaluate-speed")(evaluate.speed)
app.command("benchmark")(evaluate.benchmark)
app.command("serve")(evaluate.serve)
app.command("demo")(use.demo)
app.command("info")(use.info)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"drive-wm {__version__}")
        raise typer.Exit()


VersionOption = Annotated[bool, Option("--version", callback=_show_version, is_eager=True, help="Show the version.")]


@app.callback()
def _before(version: VersionOption = False) -> None:
    pass


# ClickException, by its public heir: newer typers carry click inside them, older ones depend on it.
_ClickException: Any = typer.BadParameter.__mro__[2]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command and exits: 0 done, 1 unusable input, 2 misspelt command, 130 interrupted. One line an error."""
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """The exit code of a command; a traceback only for our own mistakes, or with DRIVE_WM_DEBUG=1."""
    from drive_wm.types import InputError

    try:
        code = app(arguments, standalone_mode=False, prog_name="drive-wm")
        return code if isinstance(code, int) else 0
    except _ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.ctx.get_help())
            return 2
        return _fail(_misspelt(error), 2)
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (InputError, OSError) as error:
        if os.environ.get("DRIVE_WM_DEBUG") == "1":
            raise
        return _fail(str(error), 1)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 130)


def _fail(message: str, code: int) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return code


def _misspelt(error: Any) -> str:
    """A usage error in one line, with the nearest command or option and where to read more."""
    message, context = str(error.format_message()).rstrip("."), getattr(error, "ctx", None)
    if context is None:
        return message
    typed = getattr(error, "option_name", None) or message.partition("'")[2].partition("'")[0]
    if message.startswith("No such command"):
        message = f"No such command {typed!r}" + _nearest(typed, context.command.list_commands(context))
    elif message.startswith("No such option"):
        known = [name for parameter in context.command.params for name in parameter.opts]
        message = f"No such option {typed!r}" + _nearest(typed, known)
    return f"{message} (see {context.command_path} --help)"


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""
