"""List the data sets, check a cohort's files, get a data set."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console

from covtoken.cli.options import DataOption, JsonOption, console, is_told, say, talk

app = typer.Typer(
    help="List the data sets, check a cohort's files before a gate does, get a data set.", no_args_is_help=True
)
_talk = Console(stderr=True)


@app.command(name="list", epilog="Example: covtoken data list --json")
def list_(as_json: JsonOption = False) -> None:
    """List every cohort and data set: is it here, what is it, whose licence, what to type next.

    A folder counts as found by its name under COVTOKEN_DATA; nothing in it is opened. External cohorts are listed and
    stay shut: the confirmation alone opens them.
    """
    from covtoken.cli.data_tables import list_table
    from covtoken.data.fetch.data_sets import DATA_SETS, place_of
    from covtoken.paths import data_root

    root, rows = data_root(), []
    for known in DATA_SETS.values():
        place = place_of(known, root)
        found = place is not None or not known.folder  # a drawn cohort is always there
        rows.append(
            {
                **{"name": known.name, "kind": known.kind, "found": found, "folder": known.folder or None},
                **{"modality": known.modality, "licence": known.licence, "next": known.next_command(found)},
            }
        )
    if as_json:
        typer.echo(json.dumps({"root": None if root is None else str(root), "data_sets": rows}, indent=1))
        return
    console.print(list_table(rows))
    if root is None:
        talk("COVTOKEN_DATA is not set: set it to the folder that holds your data sets, or give one to fetch by --to")
    else:
        talk(f"looked under COVTOKEN_DATA = {root}" + ("" if root.is_dir() else ", which is not a folder"))


@app.command(epilog="Example: covtoken data check busi")
def check(
    name: Annotated[str, typer.Argument(help="phantom, busi, … (covtoken data list) or a folder with index.csv.")],
    data: DataOption = None,
    as_json: JsonOption = False,
    every: Annotated[bool, typer.Option("--all", help="Print every problem, not the first ten of a kind.")] = False,
) -> None:
    """Read all pictures and masks of a cohort; print what it holds and what is wrong with it, file by file.

    Exit code 0: a gate would take it; 1: it holds a problem that stops a gate; 2: it cannot be found. Nothing is
    written, and no problem ends the check.
    """
    from covtoken.cli.data_tables import numbers_table, problem_lines
    from covtoken.data.check.run import check as run_check

    checked = run_check(name, data, _bar)
    if as_json:
        typer.echo(json.dumps(checked.as_json(), indent=1, ensure_ascii=False))
    else:
        if checked.numbers is not None:
            console.print(numbers_table(checked))
        for line in problem_lines(checked, most=None if every else 10):
            say(line)
    if checked.stops:
        raise typer.Exit(1)


@app.command(epilog="Example: covtoken data fetch msd-task06 --to data")
def fetch(
    name: Annotated[str, typer.Argument(help="busi, lidc-idri, kits23, msd-task03, msd-task06 or msd-task07.")],
    to: Annotated[str | None, typer.Option(help="Folder of data sets, in place of COVTOKEN_DATA.")] = None,
    sha256: Annotated[str, typer.Option(help="Of the archive, where covtoken pins no hash (busi).")] = "",
) -> None:
    """Get a data set, held against a pinned hash; or print the official steps where there is no plain download.

    Licence and citation come first. A broken download goes on where it ended, in the same run or the next. Exit code
    0: the data are there; 1: the steps to them were printed; 2: an error, and nothing half-written.
    """
    from covtoken.data.fetch.fetch import fetch as run_fetch
    from covtoken.data.fetch.fetch import fetchable, folder_for

    known = fetchable(name)
    if not (known.known_hash or (known.url and sha256)):
        for line in (f"{name}: {known.licence}. Cite: {known.citation}", *known.steps):
            say(line)
        raise typer.Exit(1)
    target = folder_for(known, to)
    if target.exists():
        say(f"{target} is there already. Next: covtoken data check {name}")
        return
    talk(f"{name}, licence {known.licence}. Cite: {known.citation}")
    talk(f"from {known.url}, {known.known_hash or 'sha256:' + sha256}")
    with _downloading() as bar:
        task = bar.add_task("download", total=None)
        unpacking = bar.add_task("unpack", total=None, visible=False)
        n = run_fetch(
            known,
            target,
            sha256,
            lambda done, total: bar.update(task, completed=done, total=total or None),
            lambda files: bar.update(unpacking, description=f"unpack, {files} files", visible=True),
        )
    where = "" if to is None else f"COVTOKEN_DATA={target.parent} "
    say(f"{target}: {n} files. Next: {where}covtoken data check {name}")


def _downloading():
    """Make a bar of bytes on standard error, shown where that is a terminal."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=_talk, disable=not is_told(), transient=True)


def _bar(items, total: int):
    """Show a bar on standard error where that is a terminal."""
    from rich.progress import track

    return track(items, "pictures", total=total, console=_talk, disable=not is_told(), transient=True)
