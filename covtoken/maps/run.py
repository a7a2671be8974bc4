"""Map what a path holds into an output folder: one model for all, a broken case costs itself alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import covtoken
from covtoken.backbone.vit import FrozenViT
from covtoken.backbone.weights import check_backbone_name, load_backbone
from covtoken.data.case import Case
from covtoken.data.intensity import to_unit_range
from covtoken.errors import CovtokenError
from covtoken.maps import dicom_out, fast, outputs, prepare, record
from covtoken.maps.banks import Scorer
from covtoken.maps.inputs import dicom
from covtoken.maps.inputs.grey import Grey
from covtoken.maps.inputs.listing import Input, Listing, list_inputs
from covtoken.maps.inputs.planes import SMALLEST, Grid, Opened
from covtoken.maps.inputs.tiles import check_tile, pieces, windows
from covtoken.maps.lesion_map import fill
from covtoken.maps.overlay import NOT_A_DEVICE, draw
from covtoken.maps.record import Outcome
from covtoken.maps.regions import MOST, regions
from covtoken.scores.threshold import QUANTILE, check_quantile
from covtoken.shards.store import shard_of

CT_TILE = 128  # pixels: chest CT cut into such windows fared better by the shipped direction than whole slices
WARNING = f"Research software, {NOT_A_DEVICE}: a map says how rare a place is among the bank's, not what it is."


@dataclass(frozen=True)
class Options:
    """What a run is asked for; as the options of ``covtoken map``."""

    path: Path
    out: Path
    bank: Path | None = None
    direction: str | None = None
    modality: str = ""
    organ: str = ""
    window: tuple[float, float] | None = None
    quantile: float = QUANTILE
    backbone: str = "embedded"
    picture_size: int = 224
    device: str = "auto"
    shard: str | None = None
    limit: int | None = None
    overwrite: bool = False
    tile: int | None = None
    fast: bool = False


@dataclass(frozen=True)
class Plan:
    """A run before any model is loaded."""

    options: Options
    listing: Listing
    prepared: prepare.Prepared
    source: prepare.Source
    settings: dict[str, Any]
    settings_sha256: str
    outcomes: list[Outcome]  # of the cases of this shard

    @property
    def hint(self) -> str:
        """Name the tile for large slices that the shipped direction of CT scores (``benchmarks/tiles.py``), or ""."""
        large = max(max(opened.grid.size) for opened in self.prepared.opened.values()) >= 2 * CT_TILE
        if self.source.direction != "ct" or self.options.tile is not None or not large:
            return ""
        return f"hint: this direction comes from small windows of CT; --tile {CT_TILE} may rank small lesions higher"

    @property
    def slices(self) -> int:
        """How many slices are still to be scored."""
        return sum(len(self.prepared.opened[outcome.item.name].cases) for outcome in self.pending)

    @property
    def pending(self) -> list[Outcome]:
        """Cases that are still to be mapped."""
        return [outcome for outcome in self.outcomes if outcome.status == record.WAITING]


@dataclass(frozen=True)
class Finished:
    """What a run came to."""

    record: dict[str, Any]
    path: Path  # of run.json
    outcomes: list[Outcome]
    interrupted: bool


@contextmanager
def planned(options: Options) -> Iterator[Plan]:
    """List, open and choose; a zip stays unpacked for as long as the block lasts. Nothing is written.

    Raises:
        CovtokenError: a mistake in the options, or nothing that can be mapped.
    """
    shard = shard_of(options.shard)
    check_quantile(options.quantile)
    check_tile(options.tile)
    check_backbone_name(options.backbone)
    if options.limit is not None and options.limit < 1:
        raise CovtokenError(f"limit {options.limit}: expected 1 case or more")
    _check_out(options)
    if options.path.suffix.lower() == ".zip" and options.path.is_file():
        with dicom.unpacked(options.path) as folder:
            yield _plan(options, list_inputs(folder, named=options.path), shard)
    else:
        yield _plan(options, list_inputs(options.path, besides=options.out), shard)


def run(
    plan: Plan,
    tell: Callable[[Outcome], None] = lambda outcome: None,
    progress: bool = False,
    vit: FrozenViT | None = None,
    step: Callable[[], None] = lambda: None,
) -> Finished:
    """Map the pending cases of a plan, and write the records.

    Args:
        tell: called with each case as it ends.
        step: called after each slice that is scored.
        progress: show a bar while a bank is read.
        vit: instead of the backbone that the options name, for tests.

    Raises:
        CovtokenError: the backbone cannot be loaded, or no bank can be fitted.
    """
    started, options = time.perf_counter(), plan.options
    for outcome in plan.outcomes:
        if outcome.status != record.WAITING:
            tell(outcome)
    scorer, interrupted, precision = None, False, plan.settings["precision"]
    priced = fast.price([], None, vit, precision) if options.fast else None
    options.out.mkdir(parents=True, exist_ok=True)
    outputs.clean(options.out)
    try:
        if plan.pending:
            vit = vit or loaded(options.backbone, options.picture_size, options.device)
            check_tile(options.tile, max(vit.rows, vit.cols, SMALLEST))
            scorer = plan.source.fit(vit, progress)
            described = _described(scorer, options.quantile, options.tile)
            priced = fast.price(_middles(plan), scorer, vit, precision) if options.fast else None
        for outcome in plan.pending:
            _map_one(outcome, plan, scorer, vit, described, step)
            tell(outcome)
    except KeyboardInterrupt:
        interrupted = True
        if scorer is None:
            raise
    if scorer is None:
        kept = next((outcome.content for outcome in plan.outcomes if outcome.content), {})
        described = kept.get("scored_by", {"source": None, "alarm": _no_alarm("no case was mapped"), "threshold": None})
    failed = any(outcome.status == record.FAILED for outcome in plan.outcomes)
    content = {
        "schema": record.VERSION,
        "status": "interrupted" if interrupted else "failed cases" if failed else "done",
        "covtoken": covtoken.__version__,
        "input": str(options.path),
        "settings": plan.settings,
        "settings_sha256": plan.settings_sha256,
        "backbone": None
        if vit is None
        else {"name": vit.name, "label": vit.label, "weights_sha256": vit.weights_sha256},
        "device": None if vit is None else str(vit.device),
        "fast": priced,
        **described,
        "shard": options.shard,
        "left_out": [{"file": file, "reason": reason} for file, reason in plan.listing.left_out],
        "notes": [plan.source.words],
        "warning": WARNING,
        "seconds": round(time.perf_counter() - started, 3),
        "peak_memory_mb": record.peak_memory_mb(),
    }
    suffix = "" if options.shard is None else f".shard-{options.shard.replace('/', '-of-')}"
    path = record.write_records(options.out, suffix, content, plan.outcomes)
    return Finished(content, path, plan.outcomes, interrupted)


def loaded(backbone: str, picture_size: int, device: str) -> FrozenViT:
    """Load a backbone onto a device. Raises CovtokenError where there is no such device."""
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        where = torch.device(name)
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:
        raise CovtokenError(f"device {device!r} is not to be had here: expected auto, cpu or cuda") from error
    vit = load_backbone(backbone, picture_size)
    vit.model.to(where)
    return vit


def alarm_words(alarm: dict[str, Any]) -> str:
    """Write the sentence of an alarm that has fired."""
    which = f"{alarm['banks_fired']} of {alarm['banks']} banks ({'; '.join(alarm['reasons'])})"
    return (
        f"the label-free alarm fired for {which}: do not trust these maps; give a larger bank (--bank FOLDER) or take "
        "a shipped direction (--direction ultrasound)"
    )


def _plan(options: Options, listing: Listing, shard: tuple[int, int]) -> Plan:
    prepared = prepare.prepare(listing, Grey(options.modality, options.organ, options.window))
    precision = fast.precision_of(options.fast, options.device)
    source = prepare.choose(prepared, options.bank, options.direction, options.tile, precision)
    settings = {
        "backbone": options.backbone,
        "picture_size": options.picture_size,
        "precision": precision,
        "tile": options.tile,
        "quantile": options.quantile,
        "grey": prepared.grey.to_json(),
        "bank": source.bank,
        "direction": source.direction,
        "bank_sha256": source.key,
    }
    settings_sha256 = record.sha256_of(settings | {"covtoken": covtoken.__version__})
    outcomes = []
    for item in list(listing.inputs)[shard[0] - 1 :: shard[1]][: options.limit]:
        outcome = Outcome(item, prepared.sha256.get(item.name))
        outcomes.append(outcome)
        if item.name in prepared.faults:
            outcome.status, outcome.reason = record.FAILED, prepared.faults[item.name]
        elif not options.overwrite and (content := outputs.read_case(options.out, item.name)) is not None:
            made = content.get("settings_sha256"), (content.get("input") or {}).get("sha256")
            if made == (settings_sha256, outcome.sha256):
                outcome.status, outcome.content = record.KEPT, content
    return Plan(options, listing, prepared, source, settings, settings_sha256, outcomes)


def _map_one(
    outcome: Outcome, plan: Plan, scorer: Scorer, vit: FrozenViT, described: dict[str, Any], step: Callable[[], None]
) -> None:
    started, item = time.perf_counter(), outcome.item
    try:
        opened = plan.prepared.opened[item.name]
        outcome.content = _map(item, opened, outcome.sha256, plan, scorer, vit, described, step)
        outcome.status = record.DONE
    except (CovtokenError, OSError) as error:
        outcome.status, outcome.reason = record.FAILED, " ".join(str(error).split())
    except MemoryError:
        outcome.status, outcome.reason = record.FAILED, f"{item.where}: there is not enough memory for it"
    outcome.seconds, outcome.peak_memory_mb = time.perf_counter() - started, record.peak_memory_mb()


def _map(
    item: Input,
    opened: Opened,
    sha256: str,
    plan: Plan,
    scorer: Scorer,
    vit: FrozenViT,
    described: dict[str, Any],
    step: Callable[[], None],
) -> dict[str, Any]:
    """Map a case and write its folder: the content of its case.json."""
    grid, threshold = opened.grid, described["threshold"]["score"]
    cases = prepare.as_unit(opened, plan.source.units.get(item.name, item.name))
    with outputs.case_folder(plan.options.out, item.name) as folder:
        values = outputs.new_map(folder, grid)
        precision, tile = plan.settings["precision"], plan.options.tile
        tokens, constant = fill(values, grid, cases, scorer, vit, precision, tile, step)
        (map_file, mask_file), flagged = outputs.save_map_and_mask(folder, values, threshold, grid)
        found = [] if constant.all() else regions(tokens, threshold, scorer.scores, grid)
        shown = int(tokens.max(axis=(1, 2)).argmax())
        pixels = to_unit_range(cases[shown].pixels(), cases[shown])
        title = item.name if len(cases) == 1 else f"{item.name}, slice {shown + 1} of {len(cases)}"
        remark = _remark(found, constant)
        drawn = np.array(grid.view(values, shown))
        scale = grid.spacing_mm
        draw(pixels, drawn, threshold, plan.options.quantile, scorer.scores, title, scale, remark).save(
            folder / "overlay.png"
        )
        files = {"map": map_file, "mask": mask_file, "overlay": "overlay.png"}
        cut = windows(grid.size, tile)
        notes = _notes(cut[0][2:], vit)
        if item.kind == "dicom" and grid.header["sform_code"]:  # it has a place in the body
            try:
                key = record.sha256_of([sha256, plan.settings_sha256])
                step = grid.slice_mm or 1.0
                files |= dicom_out.write_map_and_mask(folder, item.files, values, threshold, step, key)
            except CovtokenError as error:
                notes.append(str(error))
        content = {
            "case": item.name,
            "input": {"path": item.where, "sha256": sha256, "shape": list(grid.shape), "axes": list(grid.axes)},
            "settings_sha256": plan.settings_sha256,
            "spacing_mm": None if scale is None else list(scale),
            "spacing_mm_reason": None if scale is not None else "the file carries none; index.csv may, column spacing",
            "slices": len(cases),
            "tile": plan.options.tile,
            "windows_a_slice": len(cut),
            "constant_slices": int(constant.sum()),
            "files": files,
            "flagged": _flagged(flagged, grid),
            "regions": found,
            "regions_reason": "the picture is the same everywhere" if constant.all() else None,
            "shown_slice": shown,
            "scored_by": described,
            "notes": notes,
            "warning": WARNING,
        }
        outputs.write_json(folder / "case.json", content)
    return content


def _flagged(pixels: int, grid: Grid) -> dict[str, Any]:
    """Count what lies above the threshold, in pixels, as a share, and in mm² or mm³ where spacing is known."""
    total, size, unit = int(np.prod(grid.shape)), None, "mm²"
    volume = len(grid.shape) == 3 and grid.header is not None and min(grid.shape) > 1
    if grid.spacing_mm is not None and (not volume or grid.slice_mm is not None):
        size = pixels * grid.spacing_mm[0] * grid.spacing_mm[1] * (grid.slice_mm if volume else 1)
        unit = "mm³" if volume else "mm²"
    known = size is not None
    return {
        "pixels": pixels,
        "share": round(pixels / total, 8),
        "size": round(size, 1) if known else None,
        "size_unit": unit if known else None,
        "size_reason": None if known else "spacing is unknown",
    }


def _remark(found: list[dict[str, Any]], constant: np.ndarray) -> str:
    if constant.all():
        return "the picture is the same everywhere: nothing in it can be rare"
    n = sum(region["flagged"] for region in found)
    count = f"{'no' if not n else f'{n} or more' if n == MOST else n} region{'' if n == 1 else 's'} flagged"
    return f"{count}; the highest token is rarer than {100 * found[0]['rank']:.4g} % of the bank's tokens"


def _notes(size: tuple[int, int], vit: FrozenViT) -> list[str]:
    if max(size) <= 2 * vit.picture_size:
        return []
    patch = f"{size[0] / vit.rows:.0f} × {size[1] / vit.cols:.0f}"
    return [
        f"{size[0]} × {size[1]} pixels were squashed to {vit.picture_size} × {vit.picture_size}: a token covers "
        f"{patch} pixels, and what is much smaller is not seen; crop the picture to what matters, or see --tile"
    ]


def _middles(plan: Plan) -> Iterator[Case]:
    """Yield the middle of the middle slice of each pending case, on which --fast is priced."""
    for item in (outcome.item for outcome in plan.pending):
        opened = plan.prepared.opened[item.name]
        cases = prepare.as_unit(opened, plan.source.units.get(item.name, item.name))
        parts = pieces(cases[len(cases) // 2], opened.grid.size, plan.options.tile)
        yield parts[len(parts) // 2]


def _described(scorer: Scorer, quantile: float, tile: int | None = None) -> dict[str, Any]:
    score = scorer.scores.at(quantile)
    alarm = scorer.alarm | {"unknown_reason": None} if scorer.alarm else _no_alarm("a direction without its bank")
    return {
        "source": scorer.about,
        "alarm": alarm,
        "threshold": {
            "quantile": quantile,
            "score": score,
            "meaning": f"{100 * (1 - quantile):.4g} % of the bank's held-out tokens score higher; it says how rare a "
            "place is, and flags about that share of normal pictures too"
            + ("; windows overlap, and the mean of their scores is flagged, which is rarely as high" if tile else ""),
            "bank_tokens": scorer.scores.n,
            "colours": list(scorer.scores.scale),
        },
    }


def _no_alarm(why: str) -> dict[str, Any]:
    unknown = dict.fromkeys(("fired", "banks", "banks_fired", "limits_of"))
    return unknown | {"reasons": [], "unknown_reason": why}


def _check_out(options: Options) -> None:
    out, path = options.out, options.path
    if out.is_file():
        raise CovtokenError(f"-o {out} is a file: give a folder")
    if path.is_dir() and out.exists() and out.resolve() == path.resolve():
        raise CovtokenError(f"-o {out} is the input folder itself: give another, such as {out}-maps")
