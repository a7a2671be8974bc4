"""Assemble the ``covtoken`` command."""

from __future__ import annotations

import codecs
import sys
import warnings

import typer

from covtoken.cli import data, gates, studies, transfer, use
from covtoken.errors import CovtokenError

app = typer.Typer(
    help="Label-free lesion subspaces in frozen vision transformers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("map")(use.map_pictures)
app.command()(use.fit)
for command in (gates.gate, gates.lock, gates.confirm, gates.report, gates.number, gates.history, gates.signoff):
    app.command()(command)
STUDIES = (studies.ablate, studies.in_organ, studies.alarm, studies.clock, studies.volumes, studies.figure)
for command in (*STUDIES, transfer.transfer_backbones):
    app.command()(command)
app.add_typer(data.app, name="data")


def main() -> None:
    """Run the command; print an error (then exit with code 2) or a warning as one line on standard error.

    A terminal that lacks a character gets the nearest it has, so that no result is lost in printing it.
    """
    codecs.register_error("covtoken", _nearest)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="covtoken")
    warnings.formatwarning = lambda message, *_, **__: f"covtoken: warning: {' '.join(str(message).split())}\n"
    try:
        app()
    except CovtokenError as error:
        print(f"covtoken: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _nearest(error: UnicodeError) -> tuple[str, int]:
    """Give the ASCII words for characters that a terminal cannot print."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(_PLAIN.get(character, "?") for character in missing), error.end


_PLAIN = {"−": "-", "–": "-", "…": "...", "×": "x", "→": "->", "≤": "<=", "≥": ">=", "µ": "mu", "μ": "mu", "ρ": "rho"}
