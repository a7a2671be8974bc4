"""Run a study on selection splits: D's settings, its banks, O, and the alarm."""

from __future__ import annotations

from typing import Annotated

import typer

from covtoken.cli.options import BackboneOption, CohortOption, DataOption, ReasonOption, console, say

RecordOption = Annotated[bool, typer.Option("--record", help="Write the committed table (selection alone).")]
ChooseOption = Annotated[
    bool, typer.Option("--choose", help="Run nothing: print what the committed tables of the recipe cohorts give.")
]


def ablate(
    cohort: CohortOption = "busi",
    backbone: BackboneOption = "embedded",
    data: DataOption = None,
    record: RecordOption = False,
    choose: ChooseOption = False,
) -> None:
    """Vary D's settings one at a time and together on the selection split; the rule gives the block that D reads."""
    from covtoken.paper.tables import studies as tables
    from covtoken.protocol.looks import refuse_uncommitted
    from covtoken.studies import ablation

    if choose:
        block, ranking = ablation.recommend()
        console.print(tables.ranking_table(ranking))
        say(f"block {block}; the rest of the recipe: covtoken banks --choose")
        return
    if record:
        refuse_uncommitted()
    content = ablation.run_ablation(cohort, backbone, data=data)
    console.print(tables.single_table(content))
    console.print(tables.factorial_table(content))
    say(f"written: {ablation.STUDY.write(content, recorded=record)}")


def banks(
    cohort: CohortOption = "busi",
    backbone: BackboneOption = "embedded",
    data: DataOption = None,
    record: RecordOption = False,
    choose: ChooseOption = False,
) -> None:
    """Fit each variant of D to banks of a twentieth to all of the units; the rule gives the recommended recipe."""
    from covtoken.paper.tables import studies as tables
    from covtoken.protocol.looks import refuse_uncommitted
    from covtoken.studies import banks as study

    if choose:
        recipe, ranking = study.recommend()
        console.print(tables.banks_table(ranking))
        say(str(recipe))
        return
    if record:
        refuse_uncommitted()
    content = study.run_banks(cohort, backbone, data=data)
    console.print(tables.banks_table(study.ranked({content["cohort"]: content})))
    say(f"written: {study.STUDY.write(content, recorded=record)}")


def in_organ(
    cohort: CohortOption = "busi",
    backbone: BackboneOption = "embedded",
    data: DataOption = None,
    record: RecordOption = False,
    choose: ChooseOption = False,
) -> None:
    """Vary O, the score for inside an organ, on the selection split; the rule gives its recipe."""
    from covtoken.paper.tables import studies as tables
    from covtoken.protocol.looks import refuse_uncommitted
    from covtoken.studies import in_organ as study

    if choose:
        recipe, ranking = study.recommend()
        console.print(tables.in_organ_table(ranking))
        say(str(recipe))
        return
    if record:
        refuse_uncommitted()
    content = study.run_in_organ(cohort, backbone, data=data)
    console.print(tables.in_organ_table(content["variants"]))
    say(f"written: {study.STUDY.write(content, recorded=record)}")


def alarm(
    cohort: CohortOption = "phantom",
    define: Annotated[bool, typer.Option("--define", help="Fix and lock the limits, on selection splits.")] = False,
    record: Annotated[bool, typer.Option("--record", help="Write the committed report; logs the look.")] = False,
    reason: ReasonOption = "",
) -> None:
    """Does the label-free alarm fire where D fails? Tries conditions that its limits were not fixed on."""
    from covtoken.paper.tables import studies as tables
    from covtoken.studies import alarm as study

    path = None
    if define:
        limits, rows = study.fix_limits(reason=reason)
        rows, title = [row | study.judged(row, limits) for row in rows], f"limits: {limits}"
    else:
        report, path = study.try_limits(cohort, record=record)
        rows, title = report.chart_data["conditions"], f"alarm, {report.cohort}, {report.split}: {report.decision}"
    console.print(tables.alarm_table(rows, title))
    say(study.agreement_line(study.right_counts(rows)))
    if path is not None:
        say(f"report: {path}")
