"""Whether runs are long enough to be trained, short enough to end, and cheap to measure."""

from collections.abc import Iterator
from math import floor, log, log10

from ...config import ENOUGH_FID_IMAGES, Study
from ...units import compact, count
from ..grid import Plan
from ..run import Run
from .check import Check, found, size

# Judgements, not measurements: of fewer steps a run is mostly its warm-up and its averages' start; of more, days pass
# on any number of GPUs, for steps come one after another.
FEWEST_STEPS, MOST_STEPS = 300, 2_000_000
# A warm-up that is a large part of short runs alone bends the law: Porian et al., "Resolving discrepancies in
# compute-optimal scaling of language models" (arXiv 2406.19146).
LONGEST_WARMUP, GOOD_WARMUP = 0.2, 0.1
COSTLY_IN_ALL, COSTLY_RUN = 0.5, 1.0  # Evaluation, as a share of training.
EXACT = 0.05  # ln(exact FLOPs / 6ND) that is worth a line.


def check_lengths(study: Study, plan: Plan) -> Iterator[Check]:
    """`few_steps`, `long_warmup`, `many_steps`, `costly_evaluation` and `exact_flops`."""
    runs = plan.runs
    shortest, longest = min(runs, key=lambda run: run.steps), max(runs, key=lambda run: run.steps)
    if shortest.steps < FEWEST_STEPS:
        few = [run for run in runs if run.steps < FEWEST_STEPS]
        text = (
            f"{size(shortest)} has {shortest.steps} steps, and {len(few)} of {len(runs)} runs have under {FEWEST_STEPS}"
        )
        cure = f"set recipe.min_steps={FEWEST_STEPS}, which drops such runs, or a smaller recipe.batch_size"
        yield found("few_steps", text, cure, shortest.steps, few)
    yield from _warmup(study, runs)
    if longest.steps > MOST_STEPS:
        many = [run for run in runs if run.steps > MOST_STEPS]
        text = f"{size(longest)} takes {_million(longest.steps)} steps on {count(longest.n_images)} images, and "
        text += f"{len(many)} of {len(runs)} runs over {_million(MOST_STEPS)}: no number of GPUs makes them fewer"
        cure = f"leave width {longest.width} out at {compact(longest.budget_flops)} (one list of widths a budget)"
        yield found("many_steps", text, f"{cure}, or a larger recipe.batch_size", longest.steps, many)
    yield from _evaluation(study, plan)
    yield from _exact(study, runs)


def _million(steps: float) -> str:
    return f"{steps / 1e6:.2g}M"


def _warmup(study: Study, runs: tuple[Run, ...]) -> Iterator[Check]:
    share = lambda run: run.recipe.warmup_images / run.n_images
    worst = max(runs, key=share)
    if share(worst) <= LONGEST_WARMUP:
        return
    over = [run for run in runs if share(run) > LONGEST_WARMUP]
    text = (
        f"warm-up is {share(worst):.0%} of the {worst.steps} steps of {size(worst)}, and over {LONGEST_WARMUP:.0%} of"
    )
    batch = worst.recipe.batch_size
    images = max(batch, floor(GOOD_WARMUP * worst.n_images / batch) * batch)
    shorter = f"set recipe.warmup_images={images}"
    if law := study.recipe.warmup_law:
        shorter = f"set recipe.warmup_law.scale={law.scale * GOOD_WARMUP / share(worst):.2g}"
    cure = f"{shorter}, or leave out the largest sizes of the smallest budgets"
    yield found("long_warmup", f"{text} {len(over)} of {len(runs)} runs", cure, share(worst), over)


def _evaluation(study: Study, plan: Plan) -> Iterator[Check]:
    share = lambda run: run.evaluation_flops / (run.flops_per_image * run.n_images)
    worst = max(plan.runs, key=share)
    if not plan.flops:  # The parents of all its nested runs are lost, which `launch` says.
        return
    whole = sum(run.evaluation_flops for run in plan.runs) / plan.flops
    if whole <= COSTLY_IN_ALL and share(worst) <= COSTLY_RUN:
        return
    text = f"evaluation takes {share(worst):.0%} of the training FLOPs of {size(worst)}, and {whole:.0%} in all"
    images = lambda metric: study.evaluation[metric].n or study.validation.n
    metric = max(study.evaluation, key=lambda each: images(each) * study.evaluation[each].passes(each))
    less = images(metric) * min(COSTLY_IN_ALL / share(worst), COSTLY_IN_ALL / 2 / whole)
    digits = 10 ** floor(log10(max(less, 1)))
    fewer = floor(less / digits) * digits if less >= 1 else 0
    cure = f"set evaluation.{metric}.n={fewer}"
    if fewer < (ENOUGH_FID_IMAGES if metric == "fid" else 2):
        cure = f"leave it out with ~evaluation.{metric}, and `ditscale evaluate` the runs that matter"
    over = [run for run in plan.runs if share(run) > COSTLY_RUN]
    yield found("costly_evaluation", text, cure, share(worst), over)


def _exact(study: Study, runs: tuple[Run, ...]) -> Iterator[Check]:
    """What budgets in 6ND leave out: attention, embeddings, features, and all that backward passes do not compute."""
    if study.flops == "exact":
        return
    ratio = lambda run: run.flops_per_image * run.n_images / (6 * run.n_params * run.n_tokens)
    low, high = min(runs, key=ratio), max(runs, key=ratio)
    most = max(ratio(high), ratio(low), key=lambda each: abs(log(each)))
    if abs(log(most)) > EXACT:
        ends = f"{ratio(low):.2f} ({low.width}x{low.depth}) to {ratio(high):.2f} ({high.width}x{high.depth})"
        text = f"exact FLOPs are {ends} times 6ND, so runs of one budget differ in compute"
        yield found("exact_flops", text, "flops=exact counts every matrix product", most)
