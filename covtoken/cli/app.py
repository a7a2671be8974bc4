"""Assemble the ``covtoken`` command: its panels tell what it is for, from a person's own pictures to the paper."""

from __future__ import annotations

import codecs
import errno
import sys
import warnings
from typing import Annotated

import typer
from typer.core import TyperGroup

import covtoken
from covtoken.cli import data, gates, options, studies, transfer, use
from covtoken.cli.commands import bank, folders, installation, kept, reports, weights
from covtoken.errors import CovtokenError

OWN, PAPER, DATA, CARE = "Your own pictures", "The paper", "Data and weights", "This installation"
COMMANDS = (
    # panel, name, what it is, a line for the list, an example
    (OWN, "index", folders.index, "List pictures and their masks in index.csv.", "index pictures masks -o index.csv"),
    (OWN, "check", folders.check, "What a folder holds, and what is wrong with it.", "check pictures"),
    (OWN, "map", use.map_pictures, "Draw where each picture is rare, without any mask.", "map -i pictures -o maps"),
    (OWN, "fit", use.fit, "Fit a direction once, for pictures that come later.", "fit pictures -o mine.safetensors"),
    (
        OWN,
        "bank",
        bank.app,
        "Build a bank of tokens, or look into one.",
        "bank build pictures -o b.safetensors",
    ),
    (
        OWN,
        "certify",
        kept.certify,
        "How many tokens keep every lesion, from masks.",
        "certify own --direction ct",
    ),
    (OWN, "prune", kept.prune, "Which tokens of each picture stay.", "prune pictures -o kept --keep .25"),
    (OWN, "route", kept.route, "Time your pictures: all tokens, or the kept ones.", "route pictures --keep .25"),
    (PAPER, "gate", gates.gate, "Run a gate on a cohort, from pixels.", "gate 1 --cohort phantom"),
    (PAPER, "lock", gates.lock, "Lock a threshold or the headline numbers.", "lock thresholds --cohort busi"),
    (PAPER, "confirm", gates.confirm, "Open an external cohort, once.", "confirm --cohort busbra-external"),
    (PAPER, "verify", reports.verify, "Run a gate against the locked numbers.", "verify phantom --fail-on no-go"),
    (PAPER, "diff", reports.diff, "Compare two reports.", "diff busi/1 lits/1"),
    (PAPER, "ablate", studies.ablate, "Vary settings of the scores, one at a time.", "ablate --cohort busi"),
    (PAPER, "in-organ", studies.in_organ, "Vary the score for inside an organ.", "in-organ --cohort busi"),
    (PAPER, "alarm", studies.alarm, "Does the label-free alarm fire where C− fails?", "alarm --cohort phantom"),
    (PAPER, "clock", studies.clock, "Time what gate 6 chose, on this machine.", "clock --cohort busi --repeats 5"),
    (PAPER, "volumes", studies.volumes, "Spend one token budget on a whole volume.", "volumes --cohort phantom"),
    (
        PAPER,
        "transfer-backbones",
        transfer.transfer_backbones,
        "Score gate 5's ways by backbone.",
        "transfer-backbones",
    ),
    (PAPER, "figure", studies.figure, "Draw a figure of the book.", "figure busi-gate1-gain_forest-gains"),
    (
        PAPER,
        "number",
        gates.number,
        "A number of the paper, and where it is from.",
        "number 'busi/gate1 auroc.density'",
    ),
    (PAPER, "report", gates.report, "Write the tables that show committed reports.", "report"),
    (PAPER, "history", gates.history, "What was changed after a look at a test split.", "history"),
    (PAPER, "signoff", gates.signoff, "Sign a report off.", "signoff 1 --cohort busi --name 'A. Reader'"),
    (DATA, "data", data.app, "List, check and get data sets.", "data list"),
    (DATA, "weights", weights.app, "List and get the weights of backbones.", "weights list"),
    (CARE, "doctor", installation.doctor, "What is missing here, and the line that gets it.", "doctor"),
    (CARE, "info", installation.info, "Versions, folders, weights and data, for a report.", "info --json"),
)
EXIT_CODES = "Exit codes: 0 good, 1 a case failed (or NO-GO under --fail-on no-go), 2 a mistake, 130 interrupted."


class _Commands(TyperGroup):
    """List commands in the order of the table, and say in one line what the machine refuses."""

    def list_commands(self, ctx) -> list[str]:
        return [name for _, name, *_ in COMMANDS]

    def invoke(self, ctx):
        homes = [word for word in ctx.args if word.startswith("~")]
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            print("covtoken: interrupted; what was finished stays", file=sys.stderr)
            raise
        except MemoryError:
            raise CovtokenError("there is not enough memory: give fewer or smaller pictures") from None
        except EOFError as error:  # typer would take it for the end of its own input
            raise CovtokenError(f"a file ends too early ({error}): fetch it again") from error
        except RuntimeError as error:
            if "home directory" not in str(error):
                raise
            raise CovtokenError(f"{', '.join(homes)}: no such home folder is known; write the path in full") from None
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            file = f"{str(error.filename)[:200]}: " if error.filename else ""
            raise CovtokenError(f"{file}{error.strerror or error}; check the path and its permissions") from error


app = typer.Typer(
    cls=_Commands,
    help="Find lesions without labels in frozen vision transformers: localize, prune, certify, route.\n\n"
    "Begin with your own pictures: covtoken map -i pictures -o maps --modality ultrasound",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"covtoken {covtoken.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print data and errors alone.")] = False,
) -> None:
    options.start()
    options.be_quiet(quiet)


for _panel, _name, _command, _short, _example in COMMANDS:
    _about = {"short_help": _short, "epilog": f"Example: covtoken {_example}", "rich_help_panel": _panel}
    if isinstance(_command, typer.Typer):
        app.add_typer(_command, name=_name, **_about)
    else:
        app.command(_name, **_about)(_command)


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
        app(prog_name="covtoken")
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
