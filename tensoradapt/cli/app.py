"""The command ``tensoradapt``: its commands, and errors printed as their sentences.

An error that the library raises on purpose goes to standard error without a traceback, and the
exit code is 2, as it is for a wrong option.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .. import __version__
from ..errors import TensorAdaptError
from .convert import convert
from .demo import demo
from .explain import explain
from .inspect import inspect
from .methods import methods


class Commands(TyperGroup):
    """The group of commands; turns the library's errors into sentences and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        try:
            return TyperGroup.invoke(self, ctx)
        except TensorAdaptError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(2) from None


app = typer.Typer(
    cls=Commands,
    help="Write the update of a weight as a formula, and read everything else from it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"tensoradapt {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it."),
    ] = False,
) -> None:
    pass


app.command()(methods)
app.command()(explain)
app.command()(convert)
app.command()(inspect)
app.command()(demo)


def main() -> None:
    """Run the command line; what the console script calls."""
    app()
