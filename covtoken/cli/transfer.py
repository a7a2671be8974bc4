"""Score the ways of gate 5 with further backbones."""

from __future__ import annotations

from typing import Annotated

import typer

from covtoken.cli.options import CohortOption, DataOption, JsonOption, console, print_json, say, talk


def transfer_backbones(
    cohort: CohortOption = "phantom",
    backbone: Annotated[
        list[str] | None,
        typer.Option(help="Again for each; embedded and random weights of its form if not given."),
    ] = None,
    units: Annotated[
        int | None, typer.Option(help="Units of each split for untuned backbones; all if not given.")
    ] = None,
    data: DataOption = None,
    name: Annotated[str, typer.Option(help="Name for the record of a folder, if not the folder's own.")] = "",
    record: Annotated[
        bool, typer.Option("--record", help="Write the committed record; logs the look at a small cohort.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Score a cohort in every way of gate 5 by backbone; decides nothing. A large cohort shows its selection split."""
    from covtoken.gates.transfer import backbones
    from covtoken.paper.tables.transfer import backbones_table

    report, path = backbones.run_and_write(
        cohort, tuple(backbone or ()), n_units=units, record=record, data=data, name=name
    )
    if as_json:
        print_json({"decision": report.decision, **report.chart_data, "backbones": report.parameters["backbones"]})
        talk(f"record: {path}")
        return
    console.print(backbones_table(report.chart_data["cells"]).to_string())
    for key, about in report.parameters["backbones"].items():
        for way, why in about.get("blank", {}).items():
            say(f"{key}, no {way}: {why}")
    say(f"{report.decision}: no recipe was chosen on a backbone other than the embedded one. Record: {path}")
