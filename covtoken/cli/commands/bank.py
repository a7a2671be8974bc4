"""Build a bank of reference tokens from a person's pictures, and look into files that covtoken made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
    is_told,
    print_json,
    say,
    talk,
    warn,
)
from covtoken.errors import CovtokenError

app = typer.Typer(help="Build a bank of reference tokens from pictures, or look into a bank's or direction's file.")


@app.command(epilog="Example: covtoken bank build pictures -o bank.safetensors")
def build(
    path: Annotated[Path, typer.Argument(help="Folder of pictures; masks are not read.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File of the bank, such as bank.safetensors.")],
    block: Annotated[int | None, typer.Option(help="Whose tokens; where rarity is looked for if not given.")] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens that the bank holds at most.")] = 12_000,
    pooled: Annotated[bool, typer.Option("--pooled/--plain", help="Tokens as means of 3 × 3, or as they are.")] = True,
    modality: ModalityOption = "",
    organ: OrganOption = "",
    window: WindowOption = None,
    backbone: BackboneOption = "embedded",
    size: SizeOption = 224,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Build a bank: tokens of a folder's pictures, chosen by a keyed hash that looks at no label.

    An interrupted build goes on where it was when the command runs again.
    """
    from covtoken.backbone.cache import features
    from covtoken.bank.token_bank import build_bank
    from covtoken.maps import prepare, run
    from covtoken.maps.inputs.grey import Grey
    from covtoken.maps.inputs.listing import list_inputs
    from covtoken.scores.recipe import recommended

    path, out = path.expanduser(), out.expanduser()
    if out.is_dir():
        raise CovtokenError(f"-o {out} is a folder: give a file, such as {out / 'bank.safetensors'}")
    run.check_backbone_name(backbone)
    prepared = prepare.prepare(list_inputs(path), Grey(modality, organ, window))
    for fault in prepared.faults.values():
        warn(f"left out: {fault}")
    cases = prepare.bank_of(prepared, prepare.units_of(prepared))
    if not cases:
        raise CovtokenError(f"{path}: every picture is the same everywhere, so that no bank can be made of them")
    vit = run.loaded(backbone, size, device)
    block = recommended(vit.n_blocks).settings.target_block if block is None else block
    found = features(cases, vit, [block], progress=is_told())
    bank = build_bank(found, block, tokens, pooled, target=out, progress=is_told())
    talk(f"{len(bank)} tokens of block {block}, from {len(cases)} slices of {len(bank.header['units'])} units")
    talk(f"wrote {out}; look into it: covtoken bank info {out}")


@app.command(epilog="Example: covtoken bank info mine.safetensors --json")
def info(
    file: Annotated[Path, typer.Argument(help="A bank, a direction (covtoken fit) or exit maps of a route.")],
    as_json: JsonOption = False,
) -> None:
    """Say what a file of covtoken's holds and what it was made with, its seal checked."""
    content = about_file(file.expanduser())
    if as_json:
        print_json(content)
        return
    for name, value in content.items():
        say(f"{name}: {value}")


def about_file(file: Path) -> dict[str, Any]:
    """Describe a bank, direction or set of exit maps; lists of units and scores are counted, not given.

    Raises:
        CovtokenError: the file is missing, damaged, edited or none of these.
    """
    from safetensors import SafetensorError, safe_open

    from covtoken.bank.token_bank import load_bank
    from covtoken.economy.exit_maps import load_exit_maps
    from covtoken.leak_guard import refuse_mask_file
    from covtoken.subspace.direction import load_direction

    refuse_mask_file(file)
    loaders = {"covtoken_direction": load_direction, "covtoken_exit_maps": load_exit_maps}
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError):
        metadata = {}  # the loader says what is wrong
    kind = next((key for key in loaders if key in metadata), "covtoken_bank")
    held = loaders.get(kind, load_bank)(file)
    header = dict(held.header)
    about = {"file": str(file), "kind": kind.removeprefix("covtoken_").replace("_", " ")}
    if hasattr(held, "tokens"):
        about |= {"tokens": len(held), "width": held.tokens.shape[1]}
    about["units"] = len(header.pop("units", []))
    scores = header.pop("heldout", None)
    if isinstance(scores, dict):
        about["held-out scores of tokens"] = scores.get("n")
    return about | {name: value for name, value in sorted(header.items()) if name != "kind"}
