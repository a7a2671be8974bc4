"""Make a list of pictures and masks, and check a folder before anything long begins."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from covtoken.cli.options import (
    DataOption,
    JsonOption,
    ModalityOption,
    OrganOption,
    QuietOption,
    WindowOption,
    console,
    is_told,
    print_json,
    say,
    talk,
)
from covtoken.errors import CovtokenError

EveryOption = Annotated[bool, typer.Option("--all", help="Print every problem, not the first ten of a kind.")]


def index(
    images: Annotated[Path, typer.Argument(help="Folder of the pictures.")],
    masks: Annotated[Path, typer.Argument(help="Folder of their masks; the same one where they lie together.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The list; index.csv in the folder that holds both if not given.")
    ] = None,
    patient: Annotated[
        str, typer.Option(help="Regular expression with a group that finds the patient in a file's name.")
    ] = "",
    modality: Annotated[str, typer.Option(help="ultrasound, ct or ct8, of all pictures.")] = "",
    normal: Annotated[
        bool, typer.Option("--no-mask-is-normal", help="A picture without a mask holds no lesion; else it is left out.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write over a list that is there.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write index.csv from a folder of pictures and a folder of masks, matched by name; opens none of them.

    A mask bears its picture's name, with or without _mask, _seg, _label, … What does not match is named, and gives
    exit code 1.
    """
    from covtoken.data.case import MODALITIES
    from covtoken.data.check.pairs import common_folder, pair, write_index
    from covtoken.errors import unknown

    images, masks = images.expanduser(), masks.expanduser()
    if modality and modality not in MODALITIES:
        raise unknown("modality", modality, list(MODALITIES))
    found = pair(images, masks)
    target = out.expanduser() if out is not None else common_folder(images, masks) / "index.csv"
    target = target / "index.csv" if target.is_dir() else target
    if target.exists() and not overwrite:
        raise CovtokenError(f"{target} is there already: add --overwrite to write over it, or give another by -o")
    rows = [row for row in found.rows if normal or row[1] is not None]
    faults = [fault for fault in found.faults if not (normal and ": no mask of its name" in fault)]
    if not any(mask for _, mask in rows):
        shown = "; ".join(found.faults[:3])
        raise CovtokenError(f"no mask matches a picture ({shown}): names must agree, but for _mask, _seg and the like")
    n_patients = write_index(rows, target, patient, modality)
    if as_json:
        about = {"pictures": len(rows), "masks": sum(mask is not None for _, mask in rows), "patients": n_patients}
        print_json({"index": str(target), **about, "faults": faults})
    else:
        for fault in faults:
            say(f"left out: {fault}")
        units = f", {n_patients} patients" if patient else "; name the patients by --patient if one has several"
        talk(f"{target}: {len(rows)} pictures, {sum(mask is not None for _, mask in rows)} with a mask{units}")
        talk(f"next: covtoken check {target.parent}")
    if faults:
        raise typer.Exit(1)


def check(
    folder: Annotated[str, typer.Argument(help="A folder of pictures, with index.csv or without; or busi, phantom, …")],
    data: DataOption = None,
    modality: ModalityOption = "",
    organ: OrganOption = "",
    window: WindowOption = None,
    as_json: JsonOption = False,
    every: EveryOption = False,
    quiet: QuietOption = False,
) -> None:
    """Read all pictures and masks; print sizes, values, patients, and what is wrong, file by file, in seconds.

    Without index.csv only pictures are read, as covtoken map reads them. Exit code 1: something is in the way.
    """
    path = Path(folder).expanduser()
    if data is None and path.is_dir() and not (path / "index.csv").is_file():
        _check_pictures(path, (modality, organ, window), as_json, every)
        return
    from covtoken.cli.data import check as check_cohort

    check_cohort(folder, data, as_json, every)


def _check_pictures(path: Path, grey: tuple, as_json: bool, every: bool) -> None:
    from rich.markup import escape
    from rich.table import Table

    from covtoken.maps.inputs.look import look_at_pictures

    found = look_at_pictures(path, *grey, progress=is_told())
    if as_json:
        print_json(found)
    else:
        table = Table(title=escape(f"{path.resolve().name}: what it holds"), show_header=False)
        for name, value in found["numbers"].items():
            table.add_row(escape(name), escape(str(value)))
        console.print(table)
        shown = found["problems"] if every else found["problems"][:10]
        for problem in shown:
            say(f"PROBLEM, {problem['file']}: {problem['what']}")
        if len(found["problems"]) > len(shown):
            say(f"{len(found['problems']) - len(shown)} more; --all prints them, --json too")
        for note in found["notes"] if every else found["notes"][:10]:
            say(f"note, {note['file']}: {note['what']}")
        say(f"{len(found['problems'])} problems, {len(found['notes'])} notes")
    if found["problems"]:
        raise typer.Exit(1)
