"""Whether the sizes of each budget lie around its optimum, where that is believed to be known."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import linear_regression

from ...config import Study
from ...units import compact, count
from ..grid import Plan
from ..nest import nest
from ..run import Run
from .check import Check, found

# N* = 0.0009 C^0.5681 of the in-context design, of images of 256 x 256 pixels in 4 x 32 x 32 latents: Liang et al.,
# "Scaling laws for diffusion transformers" (arXiv 2410.08184). It was fitted from 1e17 to 6e18 FLOPs.
PUBLISHED, PUBLISHED_FROM, PUBLISHED_TO = (0.0009, 0.5681), 1e15, 1e21
# Where nothing is known of N*, it grows as a power of about a half: .4951 in arXiv 2608.17286, .5681 above.
USUAL_EXPONENT = 0.5
FAR = 8.0  # A size this many times from N* says little of where N* is. fit warns from 16 times the N* it has found.
NEAR = 5.0  # Sizes within this factor of N* are advised.
LOPSIDED = 3.0  # Ratio of the reaches above and below N*, in ln N, as in fit's finding of this name.
DRIFT, DRIFT_UNKNOWN = 2.0, 3.0  # Of the middle of the sizes against N*; the second where nothing is known of N*.
WORTH_NESTING = 0.1  # Share of the FLOPs that would be saved.


@dataclass(frozen=True)
class Believed:
    """An optimum as known before the study: N* of a budget in FLOPs, and who says so."""

    at: Callable[[float], float]
    source: str


def believed_optimum(study: Study) -> Believed | None:
    """By the study's prior; else of latents at budgets around those of the published law; None of others."""
    if study.prior:
        return Believed(study.prior.optimum, "the study's prior")
    coefficient, exponent = PUBLISHED
    inside = PUBLISHED_FROM <= study.budgets[0] and study.budgets[-1] <= PUBLISHED_TO
    if study.data.source != "latents" or not inside:
        return None
    return Believed(lambda budget: coefficient * budget**exponent, "arXiv 2410.08184")


def check_design(study: Study, plan: Plan) -> Iterator[Check]:
    """`wide_grid`, `one_sided_grid` and `drifting_centring` of the runs that make the slices; `not_nested`."""
    grid = [run for run in plan.runs if run.role == "grid"]
    slices = {c: [run for run in grid if run.budget_flops == c] for c in sorted({run.budget_flops for run in grid})}
    if not grid:
        return
    believed = believed_optimum(study)
    if believed:
        yield from _around(slices, believed)
    else:
        yield from _by_middles(slices)
    yield from _nesting(study, grid)


def _around(slices: dict[float, list[Run]], believed: Believed) -> Iterator[Check]:
    """The slices against N*."""
    grid, cure = [run for runs in slices.values() for run in runs], _widths(slices, believed)
    off = lambda run: math.log(run.n_params / believed.at(run.budget_flops))
    far = [run for run in grid if abs(off(run)) > math.log(FAR)]
    if far:
        flops, images = (_share(name, far, grid) for name in ("achieved_flops", "n_images"))
        text = f"{len(far)} of {len(grid)} runs lie over {FAR:g}x from N* ({believed.source}), with {flops:.0%} of the"
        text += f" FLOPs and {images:.0%} of the images"
        yield found("wide_grid", text, cure, len(far), far)
    reaches = {c: (max(0.0, -min(map(off, runs))), max(0.0, max(map(off, runs)))) for c, runs in slices.items()}
    ratio = {c: max(reach) / max(min(reach), 1e-9) for c, reach in reaches.items()}
    if max(ratio.values()) > LOPSIDED:
        worst = max(ratio, key=lambda c: ratio[c])
        below, above = map(math.exp, reaches[worst])
        sided = [run for c, runs in slices.items() if ratio[c] > LOPSIDED for run in runs]
        text = f"at {compact(worst)} the sizes reach {below:.3g}x below and {above:.3g}x above N* = "
        text += f"{count(believed.at(worst))} ({believed.source})"
        yield found("one_sided_grid", text, cure, ratio[worst], sided)
    middles = {c: (max(map(off, runs)) + min(map(off, runs))) / 2 for c, runs in slices.items()}
    low, high, drift = _drift(middles)
    if drift > DRIFT:
        text = f"the middle of the sizes drifts from {low:.2g}x to {high:.2g}x N* as the budget grows"
        yield found("drifting_centring", f"{text} ({believed.source})", cure, drift)


def _by_middles(slices: dict[float, list[Run]]) -> Iterator[Check]:
    """The slices against their own middles, where nothing is known of N*."""
    ends = {c: (min(run.n_params for run in runs), max(run.n_params for run in runs)) for c, runs in slices.items()}
    middles = {c: math.log(low * high) / 2 - USUAL_EXPONENT * math.log(c) for c, (low, high) in ends.items()}
    *_, drift = _drift(middles)
    if drift > DRIFT_UNKNOWN:
        text = (
            f"N* grows about as C^{USUAL_EXPONENT:g}, and against that the middle of the sizes drifts by {drift:.2g}x"
        )
        cure = "give each budget its own list, widths=[[...],[...]], with larger sizes at larger budgets"
        yield found("drifting_centring", text, cure, drift)
    worst = max(ends, key=lambda c: ends[c][1] / ends[c][0])
    low, high = ends[worst]
    if high > FAR**2 * low:
        text = f"at {compact(worst)} the sizes go from {count(low)} to {count(high)}, {high / low:.3g}x"
        cure = f"give widths of a narrower range: sizes over {FAR:g}x from the middle say little of the optimum"
        yield found("wide_grid", text, cure, high / low, slices[worst])


def _drift(middles: dict[float, float]) -> tuple[float, float, float]:
    """From {budget: ln of a middle}: its factors at the ends of a line through all, and the ratio of the two."""
    if len(middles) < 2:
        return 1.0, 1.0, 1.0
    log_c = list(map(math.log, middles))
    slope, height = linear_regression(log_c, list(middles.values()))
    low, high = (math.exp(height + slope * x) for x in (log_c[0], log_c[-1]))
    return low, high, max(low / high, high / low)


def _widths(slices: dict[float, list[Run]], believed: Believed) -> str:
    """The widths within NEAR of N* as a setting, where every budget keeps three; else where sizes are wanted."""
    near = {
        c: sorted({r.width for r in runs if abs(math.log(r.n_params / believed.at(c))) <= math.log(NEAR)})
        for c, runs in slices.items()
    }
    if all(len(widths) >= 3 for widths in near.values()):
        return f"keep those within {NEAR:g}x: widths=[{','.join(str(row).replace(' ', '') for row in near.values())}]"
    wanted = ", ".join(f"{count(believed.at(c))} at {compact(c)}" for c in (min(slices), max(slices)))
    return f"give each budget its own list, widths=[[...],[...]], with sizes within {NEAR:g}x of N* ({wanted})"


def _nesting(study: Study, grid: Sequence[Run]) -> Iterator[Check]:
    """`not_nested` where single runs could be parts of others."""
    if study.nested or study.rehearsal:
        return
    parts = [run for run in nest(list(grid), study.recipe)[0] if run.within]
    saved = sum(float(run.flops_per_image * run.stable_images) for run in parts)
    share = saved / sum(float(run.flops_per_image * run.n_images) for run in grid)
    if share > WORTH_NESTING:
        text = f"{len(parts)} runs begin as longer ones do, and each is trained by itself: {share:.0%} of the FLOPs"
        yield found("not_nested", text, "nested=true trains each size once (docs/nested.md)", share)


def _share(name: str, part: Sequence[Run], whole: Sequence[Run]) -> float:
    return sum(float(getattr(run, name)) for run in part) / sum(float(getattr(run, name)) for run in whole)
