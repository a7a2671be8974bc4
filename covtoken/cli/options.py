"""Define what commands share: options, how a line is printed, and how progress is shown."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console

from covtoken.errors import CovtokenError

console = Console()
_quiet = False


def be_quiet(quiet: bool) -> bool:
    """Silence ``talk`` and progress for this command; errors and data are printed all the same."""
    global _quiet
    _quiet = _quiet or quiet
    return quiet


def start() -> None:
    """Forget what an earlier command of this process was told."""
    global _quiet
    _quiet = False


CohortOption = Annotated[str, typer.Option(help="phantom, busi, … or a folder that holds index.csv.")]
BackboneOption = Annotated[str, typer.Option(help="embedded, dinov2-base, … or any timm ViT.")]
DataOption = Annotated[
    str | None, typer.Option(help="Folder of a committed cohort that does not lie under COVTOKEN_DATA.")
]
ReasonOption = Annotated[str, typer.Option(help="Why a lock changes; kept in its changelog.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, for programs.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", callback=be_quiet, help="Print data and errors alone.")]
FailOnOption = Annotated[
    str | None, typer.Option("--fail-on", help="no-go: exit with code 1 where the decision is NO-GO.", metavar="no-go")
]
ModalityOption = Annotated[str, typer.Option(help="ultrasound or ct, where neither DICOM nor index.csv says it.")]
OrganOption = Annotated[
    str, typer.Option(help="Names the HU window of CT: lung, abdomen, liver, kidney, pancreas or mediastinum.")
]
WindowOption = Annotated[
    tuple[float, float] | None, typer.Option(help="Stored values of black and white, in place of an organ's window.")
]
SizeOption = Annotated[int, typer.Option("--size", help="Pixels a side to which pictures are squashed.")]
TileOption = Annotated[
    int | None, typer.Option(help="Cut larger pictures into windows of so many pixels that overlap by half.")
]
FastOption = Annotated[
    bool,
    typer.Option("--fast", help="bf16 where the processor has it: run.json says what that saved and changed."),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


def fail_on(asked: str | None, decision: str | None) -> None:
    """Exit with code 1 where the decision is what ``--fail-on`` names; refuse any other word than no-go."""
    if asked not in (None, "no-go"):
        raise CovtokenError(f"--fail-on {asked}: expected no-go")
    if asked and decision == "NO-GO":
        raise typer.Exit(1)


def say(line: str) -> None:
    """Print a line of data as it is, neither cut nor read as markup, which names of files may look like."""
    console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)


def talk(line: str) -> None:
    """Print a line for a person on standard error, unless the command is to be quiet."""
    if not _quiet:
        Console(stderr=True).print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)


def warn(line: str) -> None:
    """Print a warning on standard error, whatever else is quiet."""
    print(f"covtoken: warning: {line}", file=sys.stderr)


def print_json(content: Any) -> None:
    """Print JSON on standard output."""
    typer.echo(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))


def is_told() -> bool:
    """Tell whether a person looks on: a terminal, and no ``--quiet``."""
    return sys.stderr.isatty() and not _quiet


@contextmanager
def bar(words: str, total: int | None) -> Iterator[Callable[[], None]]:
    """Show a progress bar on standard error where that is a terminal; gives what is called at each step."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(words), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not is_told()) as shown:
        task = shown.add_task(words, total=total)
        yield lambda: shown.advance(task)
