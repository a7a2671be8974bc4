"""Ask what routed features still do: linear probes, trained on the full pass, read every way through the model.

Labels train and judge the probes, and nothing else; what a way itself fits comes from the bank. All ways cost at most
what the chosen route costs, but for the full pass, the published setting and those that name another speed-up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch

from covtoken.bank.features import Features
from covtoken.data.case import Case
from covtoken.economy.exit_maps import ExitMaps
from covtoken.economy.merge_passes import merging_pass, tuned_merging
from covtoken.economy.merge_schedules import schedules_for
from covtoken.economy.passes import Pass, PassOutput, plain_pass, stop_early_block_for, stop_early_pass
from covtoken.economy.routing import batches, route_through
from covtoken.economy.stages import Stage
from covtoken.economy.timing import medians
from covtoken.errors import CovtokenError
from covtoken.evaluation.diagnosis import diagnoses
from covtoken.evaluation.labels import SplitLabels, label
from covtoken.evaluation.measure import Measured
from covtoken.evaluation.probe_metrics import FULL, TASKS, add_probe_metrics
from covtoken.evaluation.probes import fit_malignancy, fit_segmentation, picture_features
from covtoken.gates.economy.choice import Costs
from covtoken.gates.economy.running import exit_maps_of
from covtoken.gates.economy.taps import Tap
from covtoken.leak_guard import LabelLeak
from covtoken.protocol.setting import Setting

CHOSEN, MIXED = "chosen", "chosen_mixed"
ROUTED = (
    *("direction", "attention_fit", "attention_head_fit", "attention_best", "head_student", "centre_prior", "random"),
    *("density", "density_1000"),
)
FEW = (CHOSEN,)  # on the phantom, whose notebook has a minute and a half
OTHER_SPEEDUPS = (1.15, 1.3, 1.55)  # of the chosen score, beside its setting
STARTS = (1, 2, 3)  # blocks at which a tuned merging may start
BATCHES, REPEATS = (1, 8), 3


@dataclass(frozen=True)
class Way:
    """A way through the model: its FLOPs a picture, and what it gives of the pictures ``part`` of a side."""

    route: str
    flops: int
    run: Callable[[torch.Tensor, str, slice], PassOutput] = field(repr=False)


@dataclass(frozen=True)
class Sides:
    """The pictures of the three sides, ``bank``, ``train`` and ``test``, their features, and the plain pass of them."""

    cases: dict[str, Sequence[Case]]
    features: dict[str, Features]
    plain: Pass

    def full(self, images: torch.Tensor, side: str, part: slice) -> PassOutput:
        """Give the plain pass of the pictures ``part`` of a side, out of their features where these hold it.

        Features hold no CLS: zeros stand for it, where no probe of pictures will read it.
        """
        if side not in self.features or "norm" not in self.features[side].blocks:
            return self.plain.run(images)
        tokens = self.features[side].subset(list(range(len(self.features[side]))[part])).tokens("norm")
        return PassOutput(tokens, torch.zeros_like(tokens[:, :1]))


def ways(
    setting: Setting,
    taps: Mapping[str, Tap],
    sides: Sides,
    costs: Costs,
    header: Mapping[str, Any],
    chosen_maps: ExitMaps,
    only: Sequence[str] = (),
) -> list[Way]:
    """Make every way: the full pass, the chosen route, and what costs as much.

    Args:
        header: of the records: chosen, equal and published.
        chosen_maps: of the chosen route.
        only: routes to make beside the full pass (empty: all).
    """
    vit, bank_cases, chosen = setting.vit, list(sides.cases["bank"]), header["chosen"]
    budget = costs.flops(chosen["key"], chosen["k"])
    routed = partial(_route, setting, taps, sides, costs)
    makers: dict[str, Callable[[], Way | None]] = {
        CHOSEN: lambda: routed(CHOSEN, chosen["key"], chosen["k"], chosen_maps)
    }
    published = header["published"]
    makers["published"] = lambda: routed("published", published["key"], published["k"])
    for name in ROUTED:
        if name in header["equal"] and name != chosen["score"]:
            makers[name] = partial(routed, name, header["equal"][name]["key"], header["equal"][name]["k"])
    for speedup in OTHER_SPEEDUPS:
        k = costs.within(chosen["key"], costs.plain / speedup)
        makers[f"{CHOSEN}@{speedup:g}"] = partial(routed, f"{CHOSEN}@{speedup:g}", chosen["key"], k)
    makers["stop_early"] = lambda: _plain_way(
        "stop_early", stop_early_pass(vit, bank_cases, stop_early_block_for(vit, budget), plain=sides.plain)
    )
    makers["merging"] = lambda: _plain_way("merging", _equal_merging(vit, bank_cases, budget, sides.plain))
    makers["merging_tuned"] = lambda: _plain_way("merging_tuned", _tuned_merging(vit, bank_cases, budget, sides.plain))
    makers["merging_protected"] = lambda: _protected(
        setting, taps[chosen["key"]], chosen["k"], bank_cases, budget, sides.plain
    )
    found = [Way(FULL, sides.plain.flops, sides.full)]
    for name, make in makers.items():
        if only and name not in only:
            continue
        try:
            way = make()
        except LabelLeak:
            raise
        except CovtokenError:  # out of the budget's reach, or a model that cannot merge
            continue
        found += [way] if way is not None else []
    return found


def probe(
    setting: Setting, found: Sequence[Way], sides: Sides, test_labels: SplitLabels
) -> tuple[dict[str, dict], list[dict[str, Any]], list[str]]:
    """Train the probes on the full pass, and on full and chosen mixed; measure them on every way.

    Returns:
        The metrics' entries, a row a way and task {route, speedup, task, value, lo, hi, gain, gain_lo, gain_hi}, and
        why there are none, where too few units hold a lesion.

    Raises:
        LabelLeak: something label-free is being built.
    """
    try:
        measured, rows = _probed(setting, found, sides, test_labels)
    except LabelLeak:
        raise
    except CovtokenError as error:
        return {}, [], [str(error)]
    return measured.entries(), rows, []


def _probed(
    setting: Setting, found: Sequence[Way], sides: Sides, test_labels: SplitLabels
) -> tuple[Measured, list[dict[str, Any]]]:
    cohort, vit, train, test = setting.cohort, setting.vit, sides.cases["train"], sides.cases["test"]
    labels = label(train, cohort, *setting.grid)
    told, judged = diagnoses(cohort, train), diagnoses(cohort, test)
    by_name = {way.route: way for way in found}
    tokens, pictures = _gathered(vit, by_name[FULL], "train", train)
    segment = {FULL: fit_segmentation(tokens, labels.lesion, labels.ignore, labels.unit)}
    classify = {FULL: _malignancy(pictures, told, labels.unit)}
    if CHOSEN in by_name:
        more, more_pictures = _gathered(vit, by_name[CHOSEN], "train", train)
        twice = [np.concatenate([part, part]) for part in (labels.lesion, labels.ignore, labels.unit, told)]
        segment[MIXED] = fit_segmentation(torch.cat([tokens, more]), *twice[:3])
        classify[MIXED] = _malignancy(torch.cat([pictures, more_pictures]), twice[3], twice[2])
        del more
    del tokens
    scores, thresholds, flops = {}, {}, {}
    for way in found:
        names = {way.route: FULL} | ({MIXED: MIXED} if way.route == CHOSEN else {})
        made = _scored(vit, way, test, [(segment[trained], classify[trained]) for trained in names.values()])
        for (route, trained), each in zip(names.items(), made, strict=True):
            scores[route], thresholds[route], flops[route] = each, segment[trained].threshold, way.flops
    measured = Measured((0, 0, 0))
    add_probe_metrics(measured, scores, thresholds, test_labels, judged)
    rivals = [route for route in scores if route not in (FULL, CHOSEN, MIXED, "published") and "@" not in route]
    for task, rival in product(TASKS, rivals if CHOSEN in scores else ()):
        own, other = f"probe.{task}.{CHOSEN}", f"probe.{task}.{rival}"
        if own in measured.values and other in measured.values:
            measured.difference(f"probe_gain.{task}.{CHOSEN}_minus_{rival}", own, other)
    return measured, _rows(measured, {route: flops[FULL] / spent for route, spent in flops.items()})


def wall_rows(setting: Setting, found: Sequence[Way], sides: Sides, repeats: int = REPEATS) -> list[dict[str, Any]]:
    """Time every way beside the full pass: {route, batch, speedup_flops, speedup_wall}, medians, taking turns."""
    _, images, _ = next(batches(sides.cases["test"][: max(BATCHES)], setting.vit, max(BATCHES)))
    rows = []
    full = Way(FULL, sides.plain.flops, _plain_way(FULL, plain_pass(setting.vit)).run)  # that remembers nothing
    found = [full, *(way for way in found if way.route != FULL)]
    for batch in BATCHES:
        runs = [partial(way.run, images[:batch], "test", slice(0, batch)) for way in found]
        seconds = medians(runs, repeats)
        for way, spent in zip(found, seconds, strict=True):
            about = {"route": way.route, "batch": batch, "speedup_flops": found[0].flops / way.flops}
            rows.append(about | {"speedup_wall": seconds[0] / spent})
    return rows


def _plain_way(route: str, made: Pass) -> Way:
    return Way(route, made.flops, lambda images, side, part: made.run(images))


def _route(
    setting, taps, sides: Sides, costs: Costs, route: str, key: str, k: int, exits: ExitMaps | None = None
) -> Way | None:
    """Route by a tap's score: by its map, made beforehand, where it is no function of the tap's tokens."""
    if k < 1:
        return None
    vit, tap = setting.vit, taps[key]
    own = tap.direction is not None or tap.bank is not None
    maps = {} if own else {side: tap.maps(sides.features["bank"], sides.features[side]) for side in ("bank", "test")}

    def stage(side: str, part: slice) -> Stage:
        if own:
            return Stage(tap.block, tap.score, k=k, sigma=tap.recipe.sigma, n_compared=tap.n_compared)
        return Stage(tap.block, lambda tokens: torch.as_tensor(maps[side][part]), k=k, n_compared=0)

    exits = exits or exit_maps_of(setting, sides.cases["bank"], partial(stage, "bank"), sides.full)

    def run(images: torch.Tensor, side: str, part: slice) -> PassOutput:
        routed = route_through(vit, images, [stage(side, part)], exits)
        return PassOutput(routed.tokens, routed.prefix)

    return Way(route, costs.flops(key, k), run)


def _tuned_merging(vit, bank_cases: Sequence[Case], budget: int, plain: Pass) -> Pass:
    """Tune merging among the schedules that start early: later ones lie further from the full pass."""
    starts = {"equal"} | {f"{kind} {block}" for kind in ("from", "at once after") for block in STARTS}
    schedules = {name: plan for name, plan in schedules_for(vit, budget).items() if name in starts}
    return tuned_merging(vit, bank_cases, budget, schedules=schedules, plain=plain).best


def _equal_merging(vit, bank_cases: Sequence[Case], budget: int, plain: Pass) -> Pass:
    equal = schedules_for(vit, budget).get("equal")
    if equal is None:
        raise CovtokenError("no equal schedule of merging reaches the budget")
    return merging_pass(vit, bank_cases, equal, plain=plain)


def _protected(setting: Setting, tap: Tap, k: int, bank_cases: Sequence[Case], budget: int, plain: Pass) -> Way:
    """Merge what the chosen score does not protect: half of what the route keeps."""
    stage = Stage(tap.block, tap.score, k=max(1, k // 2), sigma=tap.recipe.sigma, n_compared=tap.n_compared)
    tuned = tuned_merging(setting.vit, bank_cases, budget, protect=stage, plain=plain)
    return _plain_way("merging_protected", tuned.best)


def _gathered(vit, way: Way, side: str, cases: Sequence[Case]) -> tuple[torch.Tensor, torch.Tensor]:
    """Run a way on all cases: tokens [N, T, D] and picture features [N, F]."""
    made = [way.run(images, side, part) for part, images, _ in batches(cases, vit)]
    tokens = torch.cat([each.tokens.cpu() for each in made])
    return tokens, torch.cat([picture_features(each.tokens, each.prefix).cpu() for each in made])


def _malignancy(pictures: torch.Tensor, told: np.ndarray, unit: np.ndarray):
    """Fit the probe of diagnoses; None where a class stands in too few units to fit one."""
    try:
        return fit_malignancy(pictures, told, unit)
    except LabelLeak:
        raise
    except CovtokenError:
        return None


def _scored(vit, way: Way, cases: Sequence[Case], probes: Sequence[tuple]) -> list[dict[str, np.ndarray | None]]:
    """Score the cases by each pair of probes, batch by batch, so that no token is held."""
    tokens: list[list] = [[] for _ in probes]
    pictures: list[list] = [[] for _ in probes]
    for part, images, _ in batches(cases, vit):
        made = way.run(images, "test", part)
        for i, (segment, classify) in enumerate(probes):
            tokens[i].append(segment.scores(made.tokens))
            if classify is not None:
                pictures[i].append(classify.scores(picture_features(made.tokens, made.prefix)))
    joined = zip(tokens, pictures, strict=True)
    return [{"segmentation": np.concatenate(a), "malignancy": np.concatenate(b) if b else None} for a, b in joined]


def _rows(measured: Measured, speedups: Mapping[str, float]) -> list[dict[str, Any]]:
    """List the rows of the probes' table and chart."""
    rows = []
    for name in (name for name in measured.values if name.startswith("probe.")):
        _, task, route = name.split(".", 2)
        low, high = measured.interval(name)
        row = {"route": route, "speedup": speedups[route], "task": task}
        row |= {"value": measured.values[name], "lo": low, "hi": high}
        gain = f"probe_gain.{task}.{route}_minus_{FULL}"
        if gain in measured.values:
            bounds = measured.interval(gain)
            row |= {"gain": measured.values[gain], "gain_lo": bounds[0], "gain_hi": bounds[1]}
        rows.append(row)
    return rows
