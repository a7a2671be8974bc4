"""Gate 6 tests the token economy: a certificate of retention, and routes that send few tokens through the deep blocks.

One drop is made after an early block, by a score that costs one dot product a token. Score, tap and number of tokens
are fixed on the selection split; the test split reports that one setting. Rivals get the same taps, the same exit maps
and the same rule.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from covtoken.backbone.feature_set import FeatureSet
from covtoken.backbone.vit import FrozenViT
from covtoken.data.case import Case
from covtoken.data.cohorts import RECIPE_COHORTS
from covtoken.economy.certificate import MadeBy, lesion_needs, lesion_thresholds
from covtoken.economy.passes import plain_pass
from covtoken.evaluation import stats
from covtoken.evaluation.labels import SplitLabels, label, mark_small, small_cuts
from covtoken.evaluation.measure import Measured
from covtoken.evaluation.ranks import holm, sign_test
from covtoken.evaluation.records import Records, span_of, to_float16
from covtoken.gates.budgets.lesion_numbers import LesionNumbers
from covtoken.gates.economy import certificates, probing, running
from covtoken.gates.economy.choice import (
    PUBLISHED,
    SHARE,
    SPEEDUPS,
    WANTED,
    Choice,
    Costs,
    choose,
    choose_each,
    smallest_k,
)
from covtoken.gates.economy.merged import MERGED_AT, MergedLesions
from covtoken.gates.economy.taps import OURS, RIVALS, SCORES, Tap, fit_taps, key_of, needed_blocks
from covtoken.keys import smallest
from covtoken.protocol.plan import FEW_UNITS, Plan, binding, records_header
from covtoken.protocol.report import GateRun, check_defect
from covtoken.protocol.scoring import need_lesions
from covtoken.protocol.setting import Setting, not_scored, open_setting
from covtoken.protocol.thresholds import threshold_of
from covtoken.scores.recipe import at_depth

TITLE = "The token economy"
QUESTION = "What does a third of the tokens still do, and with which guarantee?"
DEFECTS = ("dropped_cls", "foreign_certificate", "uncounted_search")
LARGEST_P = 0.05
HEADLINES = ("retention_all", "retention_small", f"coverage.{certificates.DECIDING}", "speedup_flops_net")


@dataclass(frozen=True)
class Side:
    """N pictures, their labels with small lesions marked, and their map at every tap."""

    cases: tuple[Case, ...]
    labels: SplitLabels
    maps: dict[str, np.ndarray]  # [N, T] by key
    features: FeatureSet
    spans: dict[str, tuple[float, float]]  # by key, that scaled the maps
    cuts: dict[str, float]  # of small lesions

    @property
    def needs(self) -> dict[str, np.ndarray]:
        """Compute the smallest k at which each lesion is retained, [L] by key."""
        return {key: lesion_needs(scores, self.labels.lesions) for key, scores in self.maps.items()}


@dataclass(frozen=True)
class Economy:
    """What a run of gate 6 worked on, for a notebook to draw."""

    setting: Setting
    plan: Plan
    choice: Choice
    taps: dict[str, Tap]
    evaluated: Side
    route: running.Route | None  # none on a selection split


def run(setting: Setting, plan: Plan, *, defect: str | None = None) -> GateRun:
    """Run gate 6 from pixels.

    Args:
        defect: plant one of ``DEFECTS``: a route that loses CLS, a certificate of another bank, a search that is not
            counted.

    Raises:
        CovtokenError: a split without lesions, layers that cannot be counted, or no locked setting for a small cohort.
    """
    check_defect(defect, DEFECTS)
    started, vit = time.perf_counter(), setting.vit
    bank_cases, bank, sides = _sides(setting, plan)
    whole = key_of("recommended", plan.recipes["recommended"].block)
    selection, own, taps = partial(run, replace(setting, split="selection"), plan), {}, {}
    if setting.split == "selection":
        taps = fit_taps(plan, bank, vit.n_blocks)
        costs = Costs(vit, {key: tap.n_compared for key, tap in taps.items()})
        evaluated = _scored(setting, plan, sides[0], taps, bank)
        own = _selected(setting, evaluated, costs, whole)
    locked = threshold_of(setting, 6, own, selection)
    fixed = locked["setting"]
    choice, each = Choice(**fixed["chosen"]), [Choice(**one) for one in fixed["each"]]
    if setting.split != "selection":
        needed = None
        if _is_phantom(setting):  # in a minute and a half
            needed = {whole, choice.key, _published_key(choice, vit), *(one.key for one in each)}
        taps = fit_taps(plan, bank, vit.n_blocks, keys=needed)
        costs = Costs(vit, {key: tap.n_compared for key, tap in taps.items()})
    read = {key: tap for key, tap in taps.items() if tap.block == choice.block or key == whole}
    calibration = _scored(setting, plan, sides[1], read, bank)
    if setting.split != "selection":
        evaluated = _scored(setting, plan, sides[0], taps, bank, calibration.spans if calibration else {})
    quick, n_tokens = _is_phantom(setting), costs.n_tokens
    arrays = _arrays(evaluated, calibration, taps, choice)
    header, routed, certificate = _header(setting, evaluated, calibration, costs, choice, each), None, None
    if fixed["merging"]:
        merged = MergedLesions(vit, evaluated.cases, evaluated.labels, costs)
        held = merged.survive(fixed["merging"]["schedule"], costs.flops(choice.key, choice.k))
        arrays |= {} if held is None else {"merged": held.astype(np.uint8)}
        if setting.split == "test" and not quick:
            arrays |= merged.curve(fixed["merging"]["schedule"])
    if calibration is not None:
        tap = taps[choice.key]
        made_by = MadeBy.from_header(tap.header, f"{choice.key}, σ {tap.recipe.sigma:g}")
        pair = [(side.maps[choice.key], side.labels) for side in (calibration, evaluated)]
        certificate = running.certificate_of(*pair[0], made_by)
        header["route_certificate"] = running.label_free(calibration.maps[whole], *pair[0], fixed["k_whole"], made_by)
        arrays |= running.risks(*pair[0], *pair[1], made_by)
    if calibration is not None and choice.k < n_tokens:  # a route that drops nothing is the plain pass
        cases = {"bank": bank_cases, "test": evaluated.cases}
        pictures = {"bank": bank, "test": evaluated.features, "train": calibration.features}
        shown = probing.Sides(cases, pictures, plain_pass(vit, remember=True))
        routed = running.Route.of(setting, tap, choice.k, bank_cases, shown.full)
        header["checks"] = routed.checks(evaluated.cases, made_by, certificate, defect)
    records, probed, more = Records(arrays, header), {}, {}
    if routed is not None:
        only = (probing.CHOSEN,) if setting.small else probing.FEW if quick else ()
        found = probing.ways(setting, taps, shown, costs, header, routed.maps, only)
        more["wall"] = probing.wall_rows(setting, found[:2] if quick else found, shown, 1 if quick else probing.REPEATS)
        own_wall = (row for row in more["wall"] if row["route"] == probing.CHOSEN)
        header["speedup_wall_net"] = {f"batch{row['batch']}": row["speedup_wall"] for row in own_wall}
        if setting.split == "test":
            cases["train"] = setting.cases_of("calibration")
            if not quick:
                cases["train"] += setting.cases_of("selection")
                del pictures["train"]
            probed, more["probes"], more["probes_left_out"] = probing.probe(setting, found, shown, evaluated.labels)
    measured = headline(records)
    decision, checks = decide(records, measured, locked["value"])
    metrics = measured.entries() | probed
    report = setting.report(
        *(6, TITLE, QUESTION),
        started=started,
        parameters={
            **{"setting": fixed, "wanted": WANTED, "share": SHARE},
            **{"small_cuts": evaluated.cuts, "curated": setting.cohort.curated, "bound": binding(setting)},
            "n_lesions": len(evaluated.labels.lesions),
            "n_small_lesions": sum(lesion.small for lesion in evaluated.labels.lesions),
            "bank": _bank_of(setting),
            "certificate": certificate.content if certificate else None,
        },
        thresholds={"speedup_flops_net": locked["value"], **locked},
        metrics=metrics,
        checks=checks | {"plan_locked_before": plan.locked},
        decision=decision,
        chart_data=chart_data(records) | more,
    )
    return GateRun(report, records, Economy(setting, plan, choice, taps, evaluated, routed))


def _sides(setting: Setting, plan: Plan) -> tuple[tuple[Case, ...], FeatureSet, list[tuple[Case, ...]]]:
    """Give the bank's cases and features, then the evaluated and the calibration cases (none on selection).

    A small cohort takes the bank of its modality's recipe cohort, and calibrates on half of its units, chosen by keyed
    hash: a route has one direction and one set of exit maps, which folds would multiply.
    """
    blocks, attention = _blocks(setting, plan)
    what = {"blocks": blocks, "attention": attention, "saliency": setting.vit.has_saliency_head}
    if not setting.small:
        cases = setting.cases_of("bank")
        calibration = () if setting.split == "selection" else setting.cases_of("calibration")
        return cases, setting.features(cases, **what), [setting.cases_of(setting.split), calibration]
    how = {"precision": setting.precision, "cache": setting.cache, "progress": setting.progress}
    source = open_setting(_bank_of(setting), None, setting.vit, **how).limited(setting.most_units)
    cases = tuple(not_scored(source, setting.cohort.units))
    half = set(smallest(setting.cohort.units, len(setting.cohort.units) // 2))
    sides = [tuple(c for c in setting.cohort.cases if (c.unit in half) == inside) for inside in (False, True)]
    return cases, source.features(cases, **what), sides


def _blocks(setting: Setting, plan: Plan) -> tuple[list, list[int]]:
    """List the blocks that are read; of the phantom the norm too, so that its probes run no plain pass of their own."""
    blocks, attention = needed_blocks(plan, setting.vit.n_blocks)
    return [*blocks, *(["norm"] if _is_phantom(setting) else [])], attention


def _bank_of(setting: Setting) -> str:
    cohort = setting.cohort
    return RECIPE_COHORTS.get(cohort.modality, "busi") if setting.small else cohort.name


def _scored(
    setting: Setting,
    plan: Plan,
    cases: Sequence[Case],
    taps: Mapping[str, Tap],
    bank: FeatureSet,
    spans: Mapping[str, tuple[float, float]] = MappingProxyType({}),
) -> Side | None:
    """Score cases at every tap; masks are opened after scores exist. None: no case.

    Args:
        spans: of the calibration cases by key, so that a threshold means the same on both sides; where a key is
            missing, its span is that of these cases.
    """
    if not cases:
        return None
    pictures = setting.features(cases, *_blocks(setting, plan))
    raw = {key: tap.raw_maps(bank, pictures) for key, tap in taps.items()}
    spans = {key: spans.get(key) or span_of(each) for key, each in raw.items()}
    maps = {key: to_float16(each, spans[key]).astype(np.float32) for key, each in raw.items()}
    labels = label(cases, setting.cohort, *setting.grid)
    need_lesions(labels, setting.cohort, setting.split)
    cuts = plan.small_cuts
    if setting.small:  # the tercile of its own lesions, of both halves
        every = setting.cohort.cases
        cuts = small_cuts(label(every, setting.cohort, *setting.grid), every)
    return Side(tuple(cases), mark_small(labels, cases, cuts), maps, pictures, spans, cuts)


def _selected(setting: Setting, side: Side, costs: Costs, whole: str) -> dict[str, Any]:
    """Choose the setting on the selection split, and the best rival under the same rule, whose speed-up must be beaten.

    Args:
        whole: key of the score that the whole pass would keep tokens by.
    """
    needs = side.needs
    ours = choose(OURS, needs, costs)
    each = choose_each(SCORES, needs, costs)
    rivals = [choice for choice in each if choice.score in RIVALS]
    merging = MergedLesions(setting.vit, side.cases, side.labels, costs).choose()
    speedups = {choice.key: choice.speedup for choice in rivals}
    speedups |= {f"merging, {merging['schedule']}": merging["speedup"]} if merging else {}
    best = max(speedups, key=speedups.get)
    rule = f"the fewest tokens that retain {SHARE:.0%} of all lesions of the selection split".replace("%", " %")
    return {
        "value": round(speedups[best], 4),
        "reason": f"net speed-up in FLOPs of the best rival, {best}, with {rule}",
        "table": {name: round(value, 4) for name, value in ({c.key: c.speedup for c in each} | speedups).items()},
        "setting": {
            "chosen": ours.to_json(),
            "each": [choice.to_json() for choice in each],
            "k_whole": smallest_k(needs[whole]),
            "merging": merging,
        },
    }


def _arrays(
    evaluated: Side, calibration: Side | None, taps: Mapping[str, Tap], choice: Choice
) -> dict[str, np.ndarray]:
    """List what the records keep: lesions, needs at every tap, and the chosen map."""
    arrays = {"scores": evaluated.maps[choice.key].astype(np.float16)}
    sides = {"": evaluated} | ({certificates.CALIBRATION: calibration} if calibration is not None else {})
    for start, side in sides.items():
        lesions = side.labels.lesions
        arrays |= {
            f"{start}unit": side.labels.unit.astype(np.int32),
            f"{start}lesion/size": np.array([len(lesion.tokens) for lesion in lesions], dtype=np.int32),
            f"{start}lesion/small": np.array([lesion.small for lesion in lesions], dtype=np.uint8),
            f"{start}lesion/picture": np.array([lesion.picture for lesion in lesions], dtype=np.int32),
            f"{start}threshold/{choice.key}": lesion_thresholds(side.maps[choice.key], lesions).astype(np.float32),
        }
        for key, needs in side.needs.items():
            if not start or taps[key].block == choice.block:
                arrays[f"{start}rank/{key}"] = needs.astype(np.int16)
    rows, cols = evaluated.labels.rows, evaluated.labels.cols
    at_border = [_at_border(each.tokens, rows, cols) for each in evaluated.labels.lesions]
    arrays["lesion/border"] = np.array(at_border, dtype=np.uint8)
    return arrays


def _published_key(choice: Choice, vit: FrozenViT) -> str:
    return key_of(choice.score, at_depth(PUBLISHED[0], vit.n_blocks))


def _is_phantom(setting: Setting) -> bool:
    return setting.cohort.name == "phantom"


def _at_border(tokens: np.ndarray, rows: int, cols: int) -> bool:
    row, col = np.divmod(np.asarray(tokens), cols)
    return bool((row == 0).any() or (col == 0).any() or (row == rows - 1).any() or (col == cols - 1).any())


def _header(setting, evaluated: Side, calibration: Side | None, costs: Costs, choice: Choice, rivals) -> dict[str, Any]:
    """Write down the setting, what each score costs at each tap, and how the records were made."""
    vit, flops = setting.vit, costs.flops(choice.key, choice.k)
    k = int(np.ceil(PUBLISHED[1] * costs.n_tokens - 1e-9))
    published = _published_key(choice, vit)
    shape = {"n_tokens": costs.n_tokens, "chosen": choice.to_json() | {"key": choice.key, "gflops": flops / 1e9}}
    # What a rival may keep for the FLOPs of the chosen setting, at the tap that the selection split gave it.
    equal = {each.score: {"key": each.key, "k": costs.within(each.key, flops)} for each in rivals}
    out_of_reach = sorted(name for name, each in equal.items() if each["k"] == 0)  # its search alone costs more
    equal = {name: each for name, each in equal.items() if each["k"]}
    curves = {key: [costs.within(key, costs.plain / speedup) for speedup in SPEEDUPS] for key in costs.compared}
    return records_header(
        setting,
        evaluated.labels.unit_names,
        gate=6,
        **shape,
        plain_gflops=costs.plain / 1e9,
        equal=equal,
        out_of_reach=out_of_reach,
        span=list(evaluated.spans[choice.key]),  # of the raw score, which 0 and 1 of the recorded maps stand for
        curves=curves,
        published={"key": published, "k": k, "speedup": costs.speedup(published, k)},
        calibration_units=_hashed(setting, calibration),
    )


def _hashed(setting: Setting, side: Side | None) -> list[str]:
    return records_header(setting, side.labels.unit_names if side else ())["units"]


def headline(records: Records) -> Measured:
    """Measure the headline metrics from records, fresh or committed."""
    numbers, header = LesionNumbers(records), records.header
    setting = header["chosen"]
    held = {}

    def add(name: str) -> None:
        suffix = "" if name == OWN else f".{name}"
        for kind, counted in (("all", held[name]), ("small", np.where(numbers.small, held[name], np.nan))):
            metric = f"retention_{kind}{suffix}"
            numbers.add(metric, counted)
            numbers.measured.more[metric] |= _of(int(np.nansum(counted)), int((counted >= 0).sum()))

    for name, key, k in _settings(header):
        held[name] = (records[f"rank/{key}"] <= k).astype(np.float64)
        add(name)
    if "merged" in records.arrays:
        held["merging"] = records["merged"].astype(np.float64)
        add("merging")
    p_values = {}
    for name in (*header["equal"], *(["merging"] if "merging" in held else [])):
        if name != setting["score"]:
            metric, gains = f"retention_gain.{setting['score']}_minus_{name}", held[OWN] - held[name]
            numbers.add(metric, gains)
            won, lost, p_values[metric] = sign_test(gains, numbers.unit)
            numbers.measured.more[metric] |= {"units_won": won, "units_lost": lost, "p_exact": p_values[metric]}
    for metric, adjusted in (holm(p_values) if p_values else {}).items():
        numbers.measured.more[metric]["p_holm"] = adjusted
    measured, counted = numbers.measured, np.full(2, np.nan)  # counted, so without an interval
    measured.add("speedup_flops_net", setting["speedup"], counted)
    measured.add("speedup_flops_net.published", header["published"]["speedup"], counted)
    for name, value in header.get("speedup_wall_net", {}).items():
        measured.add(f"speedup_wall_net.{name}", value, counted)
    if header["calibration_units"]:
        _add_certificates(measured, records)
    for name in (name for name in records.arrays if name.startswith("loss/")):
        units = np.unique(numbers.unit)
        draws = stats.mean_draws(records[name].astype(np.float64), units, numbers.weights)
        n = (len(units), len(np.unique(numbers.picture)), len(np.unique(numbers.picture)) * numbers.n_tokens)
        measured.add(name.replace("loss/", "risk."), float(records[name].mean()), draws, n)
        k = int(records[name.replace("loss/", "certified_k/")][0])
        place = name.replace("loss/", "certified_keep.")
        calibrating = certificates.owners_of(records, certificates.CALIBRATION)
        measured.add(place, k / numbers.n_tokens, counted, (len(calibrating), *measured.n[1:]))
    return measured


OWN = "chosen"
CERTIFIED = ("direction", "attention_best")  # beside the chosen score, among the metrics


def _settings(header: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """List (name, key, k): the chosen setting, the published one, then every score at the chosen one's FLOPs."""
    setting, published = header["chosen"], header["published"]
    fixed = [(OWN, setting["key"], setting["k"]), ("published", published["key"], published["k"])]
    return fixed + [(name, each["key"], each["k"]) for name, each in header["equal"].items()]


def _add_certificates(measured: Measured, records: Records) -> None:
    """Add coverage, with the Clopper–Pearson interval of the test units, and the certified share of tokens."""
    for row in certificates.certificate_rows(records):
        if row["vacuous"]:
            continue
        place = f"{row['form']}.alpha{row['alpha']:g}"
        name = "" if row["score"] == records.header["chosen"]["key"] else row["score"].partition(".")[0]
        n = (row["m"], *measured.n[1:])
        if name not in ("", *CERTIFIED) or (name and row["alpha"] != 0.1):
            continue  # the table has them
        place += f".{name}" if name else ""
        measured.add(f"coverage.{place}", row["coverage"], np.full(2, np.nan), n)
        measured.more[f"coverage.{place}"] = _of(row["retained"], row["m"])
        measured.add(f"certified_keep.{place}", row["keep"], np.full(2, np.nan), (row["n"], *measured.n[1:]))


def _of(count: int, n: int) -> dict[str, Any]:
    """Give the count, n and exact bounds of a share, for a report's entry."""
    return {"count": count, "of": n, "exact95": list(stats.clopper_pearson(count, n))} if n else {}


def decide(records: Records, measured: Measured, threshold: float) -> tuple[str, dict[str, Any]]:
    """Decide GO if the certificate covers what its law allows and the setting saves more FLOPs than the best rival.

    NO-VERDICT: few units, a certificate that too few calibration units make vacuous, or a setting that drops nothing. A
    score wins over another if the interval of the difference lies beyond 0 and the exact sign test over units, adjusted
    by Holm over all scores, reaches ``LARGEST_P``.

    Args:
        threshold: net speed-up in FLOPs of the best rival under the same rule on the selection split.
    """
    header = records.header
    checks: dict[str, Any] = dict(header.get("checks", {}))
    checks["faster_than_rivals"] = bool(header["chosen"]["speedup"] > threshold)
    for name in (name for name in measured.values if name.startswith("retention_gain.")):
        low, high = measured.interval(name)
        sure = measured.more[name]["p_holm"] <= LARGEST_P and measured.own_n[name][0] >= FEW_UNITS
        word = "wins" if sure and low > 0 else "loses" if sure and high < 0 else "undecided"
        checks[name.replace("_gain", "").replace("_minus_", "_against_")] = word
    if not header["calibration_units"]:
        return "NO-VERDICT", checks
    row = certificates.certificate_row(records, header["chosen"]["key"], "rank", 0.1)
    checks["coverage_within_its_law"] = bool(not row["vacuous"] and row["coverage"] >= row["law"][0])
    if row["m"] < FEW_UNITS or row["vacuous"] or "checks" not in header:
        return "NO-VERDICT", checks
    needed = ("faster_than_rivals", "coverage_within_its_law", *header["checks"])
    return ("GO" if all(checks[name] for name in needed) else "NO-GO"), checks


def chart_data(records: Records) -> dict[str, list[dict]]:
    """Give the rows of the charts and tables: curves of retention, certificates, strata, and what is missed."""
    header = records.header
    data = {"curves": curve_rows(records), "missed": missed_rows(records)}
    if header["calibration_units"]:
        data["certificates"] = certificates.certificate_rows(records)
        data["strata"] = certificates.strata_rows(records)
        data["route_certificate"] = [header["route_certificate"]]
    return data


def curve_rows(records: Records) -> list[dict]:
    """List {score, block, speedup, keep, small, all}: the share of lesions retained at each net speed-up."""
    small, rows = records["lesion/small"].astype(bool), []
    for key, ks in records.header["curves"].items():
        name, _, block = key.partition(".block")
        for speedup, k in zip(SPEEDUPS, ks, strict=True):
            if k:
                held = records[f"rank/{key}"] <= k
                shares = {"all": float(held.mean()), "small": float(held[small].mean()) if small.any() else None}
                place = {"score": name, "block": int(block), "speedup": speedup}
                rows.append(place | {"keep": k / records.header["n_tokens"]} | shares)
    for name in (name for name in records.arrays if name.startswith(MERGED_AT)):
        held, block = records[name].astype(bool), records.header["chosen"]["block"]  # drawn beside the chosen tap
        shares = {"all": float(held.mean()), "small": float(held[small].mean()) if small.any() else None}
        rows.append({"score": "merging", "block": block, "speedup": float(name.removeprefix(MERGED_AT))} | shares)
    return rows


def missed_rows(records: Records) -> list[dict]:
    """Count the lesions that the chosen setting misses, by size and by whether they touch the picture's border."""
    setting = records.header["chosen"]
    held, small = records[f"rank/{setting['key']}"] <= setting["k"], records["lesion/small"].astype(bool)
    border = records["lesion/border"].astype(bool)
    rows = []
    for size, of_size in (("small", small), ("other", ~small)):
        for place, there in (("inside", ~border), ("at the border", border)):
            of = of_size & there
            rows.append({"size": size, "place": place, "lesions": int(of.sum()), "missed": int((of & ~held).sum())})
    return rows
