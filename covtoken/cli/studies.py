"""Run a study: settings of the directions, their banks, O, the alarm, and budgets of volumes."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from covtoken.cli.options import CohortOption, DataOption, JsonOption, ReasonOption, console, print_json, say, talk
from covtoken.errors import CovtokenError
from covtoken.paths import project_root

RecordOption = Annotated[bool, typer.Option("--record", help="Write the committed table (selection alone).")]
StudiedOption = Annotated[
    str | None, typer.Option("--cohort", help="A large cohort, or a folder that holds index.csv; busi if not given.")
]
StudiedBackboneOption = Annotated[
    str | None, typer.Option("--backbone", help="embedded (if not given), dinov2-base, … or any timm ViT.")
]
ChooseOption = Annotated[
    bool, typer.Option("--choose", help="Run nothing: print what the committed tables of the recipe cohorts give.")
]


def ablate(
    cohort: StudiedOption = None,
    backbone: StudiedBackboneOption = None,
    data: DataOption = None,
    over_banks: Annotated[
        bool, typer.Option("--banks", help="Fit every variant to banks of a twentieth to all of the units.")
    ] = False,
    only_controls: Annotated[
        bool, typer.Option("--controls", help="Take from C− its source, its fit, its bank: what carries the gain?")
    ] = False,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Vary k, alpha, rank, reference, bank, block, pooling and picture of all scores."),
    ] = False,
    record: RecordOption = False,
    choose: ChooseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Vary settings on the selection split: D's one at a time, which gives the block, or all with --banks.

    With --controls, C− stands beside variants that lack a part of it. With --all, one thing at a time is varied of
    every score, what the bank holds and the pictures too, which chooses nothing.
    """
    from covtoken.paper.tables import studies as tables
    from covtoken.protocol.looks import refuse_uncommitted
    from covtoken.studies import ablation, banks

    if only_controls and (choose or over_banks):
        raise CovtokenError("--controls chooses nothing and has banks of its own: leave --choose and --banks out")
    if everything and (choose or over_banks or only_controls):
        raise CovtokenError(
            "--all chooses nothing and has banks of its own: leave --choose, --banks and --controls out"
        )
    if choose:
        _refuse_unread(cohort, backbone, data, record, as_json)
    cohort, backbone = _studied(cohort, backbone)
    if choose and over_banks:
        for name, (components, sources) in banks.PLANNED.items():
            recipe, ranking = banks.recommend(components=components, sources=sources)
            console.print(tables.banks_table(ranking, n=6))
            say(f"{name}: {recipe}")
        return
    if choose:
        block, ranking = ablation.recommend()
        console.print(tables.ranking_table(ranking))
        say(f"block {block}; the rest of the recipes: covtoken ablate --banks --choose")
        return
    if record:
        refuse_uncommitted()
    if everything:
        from covtoken.paper.tables import ablations as words
        from covtoken.studies.ablations import run

        content = run.run_ablations(cohort, backbone, data=data)
        for name in () if _as_json(as_json, content) else run.ABLATIONS:
            say(f"{words.TITLES[name][0]}. {words.follows(name, content)}")
        talk(f"written: {run.STUDY.write(content, recorded=record)}")
        return
    if only_controls:
        from covtoken.paper.tables.controls import controls_table, gain_text
        from covtoken.studies import controls

        content = controls.run_controls(cohort, backbone, data=data)
        if not _as_json(as_json, content):
            console.print(controls_table(content))
            say(gain_text(content))
        talk(f"written: {controls.STUDY.write(content, recorded=record)}")
        return
    if over_banks:
        content = banks.run_banks(cohort, backbone, data=data)
        if not _as_json(as_json, content):
            console.print(tables.banks_table(banks.ranked({content["cohort"]: content})))
        talk(f"written: {banks.STUDY.write(content, recorded=record)}")
        return
    content = ablation.run_ablation(cohort, backbone, data=data)
    if not _as_json(as_json, content):
        console.print(tables.single_table(content))
        console.print(tables.factorial_table(content))
    talk(f"written: {ablation.STUDY.write(content, recorded=record)}")


def clock(
    cohort: Annotated[str, typer.Option(help="A cohort with a committed report of gate 6.")] = "busi",
    repeats: Annotated[int, typer.Option(min=1, help="Rounds in which the passes take turns.")] = 15,
    record: Annotated[bool, typer.Option("--record", help="Write the committed table.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Time the settings that gate 6 chose, on this machine: routes, merging and the plain pass. No data are needed."""
    from covtoken.gates.economy import clock as study
    from covtoken.paper.tables.studies import clock_table
    from covtoken.protocol.looks import refuse_uncommitted
    from covtoken.protocol.report import read_report, report_path

    if record:
        refuse_uncommitted()
    report = read_report(report_path(cohort, 6, recorded=True))
    content = study.time_settings(report, repeats, progress=partial(print, file=sys.stderr))
    if not _as_json(as_json, content):
        console.print(clock_table(content))
    talk(f"written: {study.STUDY.write(content, recorded=record)}")


def in_organ(
    cohort: StudiedOption = None,
    backbone: StudiedBackboneOption = None,
    data: DataOption = None,
    record: RecordOption = False,
    choose: ChooseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Vary O, the score for inside an organ, on the selection split; the rule gives its recipe."""
    from covtoken.paper.tables import studies as tables
    from covtoken.protocol.looks import refuse_uncommitted
    from covtoken.studies import in_organ as study

    if choose:
        _refuse_unread(cohort, backbone, data, record, as_json)
        recipe, ranking = study.recommend()
        console.print(tables.in_organ_table(ranking))
        say(str(recipe))
        return
    if record:
        refuse_uncommitted()
    content = study.run_in_organ(*_studied(cohort, backbone), data=data)
    if not _as_json(as_json, content):
        console.print(tables.in_organ_table(content["variants"]))
    talk(f"written: {study.STUDY.write(content, recorded=record)}")


def _as_json(asked: bool, content: dict) -> bool:
    """Print a study's content as JSON where that is asked for, and say whether it was."""
    if asked:
        print_json(content)
    return asked


def _studied(cohort: str | None, backbone: str | None) -> tuple[str, str]:
    return "busi" if cohort is None else cohort, "embedded" if backbone is None else backbone


def _refuse_unread(cohort: str | None, backbone: str | None, data: str | None, record: bool, as_json: bool) -> None:
    """Refuse options that ``--choose``, which reads committed tables alone, would pass over."""
    given = {"--cohort": cohort, "--backbone": backbone, "--data": data, "--record": record or None}
    given |= {"--json": as_json or None}
    if unread := [option for option, value in given.items() if value is not None]:
        raise CovtokenError(
            f"--choose runs nothing and reads the committed tables of the recipe cohorts: leave {', '.join(unread)} out"
        )


def alarm(
    cohort: CohortOption = "phantom",
    define: Annotated[bool, typer.Option("--define", help="Fix and lock the limits, on selection splits.")] = False,
    record: Annotated[bool, typer.Option("--record", help="Write the committed report; logs the look.")] = False,
    reason: ReasonOption = "",
    as_json: JsonOption = False,
) -> None:
    """Does the label-free alarm fire where C− fails? Tries conditions that its limits were not fixed on."""
    from covtoken.paper.tables import studies as tables
    from covtoken.studies import alarm as study

    path = None
    if define:
        limits, rows = study.fix_limits(reason=reason)
        rows, title = [row | study.judged(row, limits) for row in rows], f"limits: {limits}"
    else:
        report, path = study.try_limits(cohort, record=record)
        rows, title = report.chart_data["conditions"], f"alarm, {report.cohort}, {report.split}: {report.decision}"
    if not _as_json(as_json, {"title": title, "conditions": rows}):
        console.print(tables.alarm_table(rows, title))
        say(study.agreement_line(study.right_counts(rows)))
    if path is not None:
        talk(f"report: {path}")


def volumes(
    cohort: Annotated[str, typer.Option("--cohort", help="phantom, or chest CT: msd-task06, lidc-idri.")] = "phantom",
    data: DataOption = None,
    record: Annotated[bool, typer.Option("--record", help="Write the committed table; logs the look.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Spend one token budget on a whole volume or the same on each slice: which keeps more 3-D lesions?"""
    from covtoken.paper.tables import volumes as tables
    from covtoken.studies import volumes as study

    content, path = study.run_and_write(cohort, record=record, data=data)
    if not _as_json(as_json, content):
        console.print(tables.volumes_table(content))
        say(tables.volumes_text(content))
    talk(f"written: {path}")


def figure(
    name: Annotated[
        str,
        typer.Argument(
            help="A chart's name; or explorer, the pictures of Figure 1 and of the explorer; or own-pictures, the "
            "tutorial's."
        ),
    ] = "explorer",
    backbone: StudiedBackboneOption = None,
    output: Annotated[str, typer.Option("--output", "-o", help="Folder for a chart's CSV and SVG.")] = ".",
) -> None:
    """Draw a figure of the book: a chart from its report, or pictures of the selection splits or the tutorial.

    Each chart of the book has its name below it, as in `covtoken figure busi-gate1-gain_forest-gains`.
    """
    from covtoken.paper import drawn
    from covtoken.paper.explorer import content
    from covtoken.studies.explorer import explored
    from covtoken.studies.study import recipe_cohorts

    if name == "explorer":
        say(content.RULE)
        path = content.write_explorer(explored(cohort, backbone or "embedded") for cohort in recipe_cohorts())
        say(content.message_of(content.read_explorer(project_root())))
        talk(f"written: {path}")
        return
    if name == "own-pictures":
        from covtoken.paper.site.overlays import write_overlays

        for path in write_overlays(project_root()):
            talk(f"written: {path}")
        return
    if backbone is not None:
        raise CovtokenError(f"figure {name!r} is drawn from a report: leave --backbone {backbone} out")
    chart = drawn.draw_by_name(project_root(), name)
    say(chart.words)
    for path in chart.write(Path(output).expanduser()):
        talk(f"written: {path}")
