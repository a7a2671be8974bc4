"""Use covtoken on a person's own pictures: lesion maps, and a direction fitted once for pictures that come later."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from covtoken.cli.options import (
    BackboneOption,
    DeviceOption,
    FastOption,
    JsonOption,
    ModalityOption,
    OrganOption,
    QuietOption,
    SizeOption,
    TileOption,
    WindowOption,
    bar,
    be_quiet,
    is_told,
    say,
    talk,
    warn,
)
from covtoken.errors import CovtokenError


def map_pictures(
    path: Annotated[Path, typer.Option("--input", "-i", help="A picture, a DICOM series, its zip, or a folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the maps.")],
    bank: Annotated[Path | None, typer.Option(help="Folder of other pictures that tell what is usual.")] = None,
    direction: Annotated[
        str | None, typer.Option(help="ultrasound or ct (shipped), or a file that covtoken fit made.")
    ] = None,
    modality: ModalityOption = "",
    organ: OrganOption = "",
    window: WindowOption = None,
    quantile: Annotated[float, typer.Option(help="Bank tokens below the threshold, as a share.")] = 0.99,
    backbone: BackboneOption = "embedded",
    size: SizeOption = 224,
    device: DeviceOption = "auto",
    tile: TileOption = None,
    fast: FastOption = False,
    shard: Annotated[str | None, typer.Option(help="i/N: map the i-th of N parts.")] = None,
    limit: Annotated[int | None, typer.Option(help="Map the first cases alone.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Map finished cases again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and write nothing.")] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Map lesions in your own pictures; no masks are needed, and none are read.

    A folder of 12 patients or more is its own bank; for fewer, a shipped direction scores. Finished cases are kept.
    """
    from covtoken.maps import record, run

    be_quiet(as_json)
    options = run.Options(
        *(path.expanduser(), out.expanduser(), bank and bank.expanduser(), direction, modality, organ, window),
        *(quantile, backbone, size, device, shard, limit, overwrite, tile, fast),
    )
    with run.planned(options) as plan:
        talk(plan.source.words)
        if plan.hint:
            talk(plan.hint)
        if dry_run:
            for outcome in plan.outcomes:
                words = f": {outcome.reason}" if outcome.reason else ""
                status = "would be mapped" if outcome.status == record.WAITING else outcome.status
                say(f"{outcome.item.name}  {status}{words}")
            return
        with bar("slices", plan.slices) as step:

            def tell(outcome: record.Outcome) -> None:
                if outcome.status == record.FAILED:
                    print(f"covtoken: {outcome.item.name}: {outcome.reason}", file=sys.stderr)

            finished = run.run(plan, tell, progress=is_told(), step=step)
    if as_json:
        print(finished.path.read_text(encoding="utf-8"), end="")
    else:
        _summary(finished, out)
    if finished.interrupted:
        raise typer.Exit(130)
    if finished.record["status"] == "failed cases":
        raise typer.Exit(1)


def fit(
    folder: Annotated[str, typer.Argument(help="Folder of pictures of 12 patients or more; masks are not read.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File of the direction, such as direction.safetensors.")],
    modality: ModalityOption = "",
    organ: OrganOption = "",
    window: WindowOption = None,
    backbone: BackboneOption = "embedded",
    size: SizeOption = 224,
    device: DeviceOption = "auto",
    tile: TileOption = None,
    fast: FastOption = False,
    quiet: QuietOption = False,
) -> None:
    """Fit a direction to a folder once, for covtoken map --direction and pictures that come later.

    The name of a committed cohort (busi, lidc-crops) takes its bank split: so the shipped directions are made.
    """
    from covtoken.data.cohorts import COMMITTED
    from covtoken.maps import prepare, run
    from covtoken.maps.banks import fit_bank, with_scores
    from covtoken.maps.fast import precision_of, price, words
    from covtoken.maps.inputs.grey import Grey
    from covtoken.maps.inputs.listing import list_inputs
    from covtoken.maps.inputs.planes import SMALLEST
    from covtoken.maps.inputs.tiles import check_tile

    out = out.expanduser()
    if out.is_dir():
        raise CovtokenError(f"-o {out} is a folder: give a file, such as {out / 'direction.safetensors'}")
    check_tile(tile)
    started = time.perf_counter()
    if folder in COMMITTED:
        if tile is not None:
            raise CovtokenError(
                f"--tile {tile}: pictures of the cohort {folder} go whole; leave it out, or give a folder"
            )
        cases, grey, name = _bank_split(folder), None, f"{folder}, bank split"
    else:
        path = Path(folder).expanduser()
        prepared = prepare.prepare(list_inputs(path), Grey(modality, organ, window))
        for fault in prepared.faults.values():
            print(f"covtoken: left out: {fault}", file=sys.stderr)
        cases = prepare.bank_of(prepared, prepare.units_of(prepared), tile)
        grey, name = prepared.grey.to_json(), path.resolve().name
    vit = run.loaded(backbone, size, device)
    check_tile(tile, max(vit.rows, vit.cols, SMALLEST))
    precision = precision_of(fast, device)
    scorer = fit_bank(cases, vit, {}, whole=True, progress=is_told(), precision=precision)
    fitted = with_scores(scorer, fitted_on=name, grey=grey, **({} if tile is None else {"tile": tile}))
    fitted.save(out)
    seconds, about = time.perf_counter() - started, scorer.about
    if fast:
        talk(words(price(cases, scorer, vit, precision)))
    talk(f"fitted to {about['slices']} slices of {about['units']} units in {seconds:.0f} s")
    if scorer.alarm["fired"]:
        warn(run.alarm_words(scorer.alarm))
    talk(f"wrote {out}; now: covtoken map -i PICTURES -o OUT --direction {out}")


def _bank_split(name: str) -> list:
    from covtoken.data.cohorts import open_cohort
    from covtoken.data.splits import load_splits

    cohort = open_cohort(name)
    splits = load_splits(cohort)
    return [case for case in cohort.cases if splits.get(case.unit) == "bank"]


def _summary(finished, out: Path) -> None:
    from covtoken.maps import run
    from covtoken.maps.fast import words

    counts = {status: sum(o.status == status for o in finished.outcomes) for status in ("done", "kept", "failed")}
    talk(f"{counts['done']} mapped, {counts['kept']} kept from before, {counts['failed']} failed: {out}")
    if finished.record["fast"] is not None:
        talk(words(finished.record["fast"]))
    threshold = finished.record["threshold"]
    if threshold is not None:
        talk(f"threshold: {threshold['meaning']}")
    alarm = finished.record["alarm"]
    if alarm["fired"]:
        warn(run.alarm_words(alarm))
    elif alarm["fired"] is False:
        talk("the label-free alarm is silent: this bank may be used")
    talk(run.WARNING)
