"""Certify, prune and route a person's own pictures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from covtoken.cli.options import (
    BackboneOption,
    DeviceOption,
    JsonOption,
    ModalityOption,
    OrganOption,
    QuietOption,
    SizeOption,
    WindowOption,
    bar,
    be_quiet,
    console,
    is_told,
    print_json,
    say,
    talk,
)
from covtoken.errors import CovtokenError

NOWHERE = Path(".covtoken-writes-nothing")
PathArgument = Annotated[Path, typer.Argument(help="A picture, a DICOM series, its zip, or a folder.")]
KeepOption = Annotated[float | None, typer.Option(help="Share of tokens that stays, such as .25.")]
CertificateOption = Annotated[Path | None, typer.Option(help="File of covtoken certify, in place of --keep.")]
BankOption = Annotated[Path | None, typer.Option(help="Folder of other pictures that tell what is usual.")]
DirectionOption = Annotated[
    str | None, typer.Option(help="ultrasound or ct (shipped), or a file that covtoken fit made.")
]


def certify(
    folder: Annotated[str, typer.Argument(help="Folder with index.csv: pictures, masks and patients.")],
    direction: Annotated[str, typer.Option(help="ultrasound or ct (shipped), or a file that covtoken fit made.")],
    alpha: Annotated[float, typer.Option(help="Share of new patients that may lose a lesion.")] = 0.1,
    form: Annotated[str, typer.Option(help="rank, threshold, expected risk or learn-then-test.")] = "rank",
    out: Annotated[Path, typer.Option("--out", "-o", help="File of the certificate.")] = Path("certificate.json"),
    modality: ModalityOption = "",
    organ: OrganOption = "",
    backbone: BackboneOption = "embedded",
    size: SizeOption = 224,
    device: DeviceOption = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write over a certificate that is there.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Calibrate how many tokens of a picture keep every lesion of a new patient with probability 1 − alpha.

    This reads masks. Patients whose pictures fed the direction are left out of the calibration.
    """
    from covtoken.economy.certificate import coverage_interval
    from covtoken.maps import run
    from covtoken.maps.kept.certified import certify_folder

    out = out.expanduser()
    if out.is_dir():
        raise CovtokenError(f"-o {out} is a folder: give a file, such as {out / 'certificate.json'}")
    if out.exists() and not overwrite:
        raise CovtokenError(f"{out} is there already: add --overwrite to write over it, or give another by -o")
    be_quiet(as_json)
    run.check_backbone_name(backbone)
    vit = run.loaded(backbone, size, device)
    options = {name: value for name, value in {"modality": modality, "organ": organ}.items() if value}
    found = certify_folder(folder, direction, vit, alpha, form, is_told(), **options)
    certificate = found.certificate
    certificate.save(out)
    if as_json:
        print_json(certificate.content | {"file": str(out), "kept_share": found.kept, "fed": list(found.fed)})
        return
    n_kept = None if certificate.k is not None else round(found.kept * certificate.n_tokens)
    for line in certificate.statement(n_kept).splitlines():
        say(line)
    if certificate.form in ("rank", "threshold"):
        low, high = coverage_interval(certificate.n, alpha)
        talk(f"with {certificate.n} calibration units, the true coverage lies in {low:.3f} … {high:.3f} (95 %)")
    talk(f"calibrated on {found.pictures} pictures; {found.with_lesion} units have a lesion")
    if found.fed:
        talk(f"{len(found.fed)} units fed the direction and were left out, such as {found.fed[0]}")
    talk(f"wrote {out}; now: covtoken prune PICTURES -o OUT --direction {direction} --certificate {out}")


def prune(
    path: PathArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")],
    keep: KeepOption = None,
    certificate: CertificateOption = None,
    bank: BankOption = None,
    direction: DirectionOption = None,
    modality: ModalityOption = "",
    organ: OrganOption = "",
    window: WindowOption = None,
    backbone: BackboneOption = "embedded",
    size: SizeOption = 224,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Say which tokens of each picture stay: NAME.kept.npy, NAME.kept.png, and tokens.csv with their places in pixels.

    No masks are read. A folder of 12 patients or more is its own bank; for fewer, a shipped direction scores.
    """
    from covtoken.maps import run
    from covtoken.maps.kept import own_direction, pruned

    be_quiet(as_json)
    budget, document = own_direction.keep_of(keep, certificate and certificate.expanduser())
    options = run.Options(
        *(path.expanduser(), out.expanduser(), bank and bank.expanduser(), direction, modality, organ, window),
        *(0.99, backbone, size, device),
    )
    with run.planned(options) as plan:
        talk(plan.source.words)
        vit = run.loaded(backbone, size, device)
        with bar("pictures", len(plan.prepared.inputs)) as step:

            def tell(outcome: pruned.Pruned) -> None:
                step()
                if outcome.fault:
                    print(f"covtoken: {outcome.name}: {outcome.fault}", file=sys.stderr)

            outcomes = pruned.prune_pictures(
                plan.prepared, plan.source, vit, budget, options.out, document, is_told(), tell
            )
    done = [outcome for outcome in outcomes if not outcome.fault]
    if as_json:
        print_json({"out": str(options.out), "keep": budget.words, "cases": [vars(outcome) for outcome in outcomes]})
    n_kept, n_tokens = (sum(getattr(outcome, name) for outcome in done) for name in ("n_kept", "n_tokens"))
    if done:
        talk(f"{n_kept} of {n_tokens} tokens stay ({budget.words}) in {len(done)} cases: {options.out}")
    if document is not None:
        talk(document.limits)
    talk(run.WARNING)
    if len(done) < len(outcomes):
        raise typer.Exit(1)


def route(
    path: PathArgument,
    keep: KeepOption = None,
    certificate: CertificateOption = None,
    bank: BankOption = None,
    direction: DirectionOption = None,
    modality: ModalityOption = "",
    organ: OrganOption = "",
    window: WindowOption = None,
    backbone: BackboneOption = "embedded",
    size: SizeOption = 224,
    device: DeviceOption = "auto",
    batch: Annotated[int, typer.Option(min=1, help="Pictures a pass.")] = 8,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds in which the passes take turns.")] = 5,
    limit: Annotated[int, typer.Option(min=1, help="Slices at most, spread evenly.")] = 64,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Time your pictures on this machine: the plain pass against a route, in which only kept tokens go on.

    FLOPs are counted and seconds measured, both net of the score and the exit maps.
    """
    from rich.table import Table

    from covtoken.economy.certificate import Certificate
    from covtoken.maps import prepare, run
    from covtoken.maps.kept import own_direction
    from covtoken.maps.kept.timed import time_route

    be_quiet(as_json)
    budget, document = own_direction.keep_of(keep, certificate and certificate.expanduser())
    options = run.Options(
        *(
            path.expanduser(),
            NOWHERE,
            bank and bank.expanduser(),
            direction,
            modality,
            organ,
            window,
        ),
        *(0.99, backbone, size, device),
    )
    with run.planned(options) as plan:
        talk(plan.source.words)
        if isinstance(document, Certificate) and plan.source.direction is None:
            raise CovtokenError(
                "a certificate holds for the direction that it was calibrated with: add --direction, with the one that "
                "covtoken certify was given"
            )
        vit = run.loaded(backbone, size, device)
        scoring = own_direction.one_direction(plan.source, plan.prepared, vit, is_told())
        if document is not None:
            document.check_fits(own_direction.made_by(scoring))
        cases = [case for opened in plan.prepared.opened.values() for case in prepare.as_unit(opened, "all")]
        cases = [cases[i * len(cases) // limit] for i in range(limit)] if len(cases) > limit else cases
        talk(f"{len(cases)} slices, {repeats} rounds")
        found = time_route(cases, vit, scoring, budget, batch, repeats, is_told())
    if as_json:
        print_json(found)
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("pass")
    for column in ("GFLOPs a picture", "ms a picture"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in found["passes"]:
        table.add_row(row["pass"], f"{row['gflops']:.2f}", f"{row['ms']:.1f}")
    console.print(table)
    speed, similar = found["speedup_measured"], found["similarity"]
    say(f"{found['speedup_flops']:.2f} times fewer FLOPs")
    say(f"{speed['median']:.2f} times as fast here (quartiles {speed['low']:.2f} … {speed['high']:.2f})")
    say(f"{found['tokens']['kept']:.4g} of {found['tokens']['of']} tokens go on after block {found['block']}")
    shown = ", ".join(f"{name} {value:.3f}" for name, value in similar.items() if value is not None)
    exits = "completed by exit maps" if found["exit_maps"] else "dropped ones as they were: too few for exit maps"
    say(f"cosine similarity with the plain pass's tokens: {shown} ({exits})")
    where = found["machine"]
    load = "" if where["load"] is None else f", load {where['load']:.1f} before"
    talk(f"{where['device']}, {where['threads']} of {where['cpus']} threads{load}; {found['checked']}")
