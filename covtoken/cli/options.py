"""Define what commands share: options, and how a line is printed."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

console = Console()
CohortOption = Annotated[str, typer.Option(help="phantom, busi, … or a folder that holds index.csv.")]
BackboneOption = Annotated[str, typer.Option(help="embedded, dinov2-base, … or any timm ViT.")]
DataOption = Annotated[
    str | None, typer.Option(help="Folder of a committed cohort that does not lie under COVTOKEN_DATA.")
]
ReasonOption = Annotated[str, typer.Option(help="Why a lock changes; kept in its changelog.")]


def say(line: str) -> None:
    """Print a line as it is, neither cut nor read as markup, which names of files may look like."""
    console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)
