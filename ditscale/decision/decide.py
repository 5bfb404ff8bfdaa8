"""`decide`: what to train, from one number that is given: a budget, hours of GPUs, days, a size, images, or a loss or
FID to reach. The law's part of the answer is that of `laws.questions.predict`; a study adds the size that can be built,
its recipe, and what it costs on the cluster."""

import json
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import units
from ..config import Study
from ..errors import UserError, command
from ..files import write_text
from ..laws.estimates import Estimate
from ..laws.findings import run_to_add
from ..laws.learning_rate import read_rates
from ..laws.predictor.identify import WIDEST_PLACE, Asked, ask, next_run
from ..laws.predictor.predictor import Predictor
from ..laws.predictor.stored import checksum, load_predictors, save_predictors
from ..laws.questions import REPEATS, Answers, Choice, fixed, of_metric, predict
from ..laws.spread import by_forms
from ..laws.text import spelled
from ..naming import StudyPaths
from ..plan.grid import nearest_run
from ..plan.run import Run
from ..plan.study import read_study
from ..price.price import price
from ..price.records import of_study, read_speeds
from ..price.speed import Speed, Speeds
from ..quantities import METRICS, at_optimum
from ..tables.read import Source, read_table
from ..tables.source import opened
from ..tables.table import Table
from ..units import compact, count
from .answer import Change, Cost, Decision, Model, Place

WIDEST_BUDGET = math.log(100)  # of a budget that is to reach a value, ln(high / low)
LEAST_BUDGETS = 4  # of a table that is asked again without its largest and smallest one
ENOUGH_RUNS = 6  # that have a further metric
FRONTIER = 6  # budgets at which the page draws the frontier
CLOSE, MOST_STEPS = 1e-4, 30  # of the search for the budget that costs so many hours
HOURS_PER_DAY, DAY_S = 24.0, 86400.0
# What is asked, as options of the command name it: those that give a budget by themselves, and those that go with one.
HOW_MUCH = ("budget", "gpu_hours", "target_loss", "target_fid")
GIVEN = ("n_params", "unique_images")
ASKED = (*HOW_MUCH, *GIVEN, "deadline")


class _Law(NamedTuple):
    """A table's grid runs, the versions of it (`_versions`) and their predictors by name, C / (N D) where it is given,
    and the study with its speeds."""

    grid: Table
    tables: dict[str, Table]
    fitted: dict[str, Predictor]
    kappa: float | None
    study: Study | None
    paths: StudyPaths | None
    speeds: Speeds

    @property
    def made(self) -> Predictor:
        return self.fitted[self.grid.metric]


def decide(
    source: Source, *, study: Path | str | None = None, budget: float | str | None = None,
    gpu_hours: float | str | None = None, n_params: float | str | None = None,
    unique_images: float | str | None = None, target_loss: float | str | None = None,
    target_fid: float | str | None = None, deadline: float | str | None = None,
    tokens_per_image: float | str | None = None, repeats: float | str = REPEATS, kappa: float | None = None,
    own: bool = False,
) -> Decision:  # fmt: skip
    """Decide what to train by the law of `source`, whatever `read_table` reads, for what is asked (of `ASKED`).

    study: the directory of the study whose design, recipe and cluster are meant; that of `source` where it is one.
    gpu_hours: of the cluster, or core-hours where it has no GPUs; deadline: days on it, alone or beside another
    question. n_params or unique_images stand alone (the budget at which they are the optimum's) or beside a budget.
    own: whether a `Table` given as `source` is that of `study`.
    Raises UserError on bad arguments and impossible ones, and (status 3) where the runs do not decide.

        ds.decide("mystudy", budget="1e21").summary()
    """
    given = dict(
        zip(ASKED, (budget, gpu_hours, target_loss, target_fid, n_params, unique_images, deadline), strict=True)
    )
    asked = {k: _number(k, v) for k, v in given.items() if v is not None}
    _check(asked)
    is_study = isinstance(source, (str, Path)) and Path(source).is_dir()
    root = source if study is None and isinstance(source, (str, Path)) and is_study else study
    law = _law(_read(source, "fid" if "target_fid" in asked else ""), root, is_study or own, kappa)
    how = {"images": asked.get("unique_images"), "tokens_per_image": tokens_per_image, "repeats": repeats}
    found = _budget(law, asked, how)
    if found.value <= law.grid.largest:
        inside = f"{_words(asked)} is {compact(found.value)} FLOPs, inside the grid, whose runs go to"
        raise UserError(f"decide: {inside} {compact(law.grid.largest)}; ask beyond it, or look there: `ditscale fit`")
    return _answered(law, asked, found, how)


def _number(name: str, value: float | str) -> float:
    """What was asked as a number. A target may have either sign, if its metric has."""
    return units.number(value, f"--{name.replace('_', '-')}", **({} if name == "target_loss" else {"above": 0}))


def _check(asked: Mapping[str, float]) -> None:
    """Raise UserError where questions do not go together."""
    options = {name: f"--{name.replace('_', '-')}" for name in ASKED}
    amounts, sizes = [n for n in HOW_MUCH if n in asked], [n for n in GIVEN if n in asked]
    if not asked:
        raise UserError(f"decide: ask something, one of {', '.join(options.values())}")
    for several in (amounts, sizes):
        if len(several) > 1:
            both = " and ".join(options[n] for n in several)
            raise UserError(f"decide: {both} are two questions; ask one of them at a time")
    if sizes and amounts and amounts[0].startswith("target"):
        pair = f"{options[amounts[0]]} with {options[sizes[0]]}"
        raise UserError(f"decide: {pair}: a target is reached by the optimum; give --budget with {options[sizes[0]]}")


def _read(source: Source, also: str = "") -> Table:
    """The table, with those metrics of `ditscale evaluate` that a study's runs have."""
    if isinstance(source, Table) or not isinstance(source, (str, Path)):
        return read_table(source)
    return read_table(source, also=measured(source, also))


def measured(source: Path | str, also: str = "", metric: str = "loss") -> tuple[str, ...]:
    """The other metrics than `metric` that a study's table has; of a table from elsewhere the one that is asked."""
    known = opened(source).columns if Path(source).is_dir() else {}
    names = [name for name in METRICS.values() if name in known and name not in (metric, METRICS.get(metric))]
    return tuple(dict.fromkeys([*names, *filter(None, [also])]))


def _law(table: Table, root: Path | str | None, own: bool, kappa: float | None) -> _Law:
    grid = table.grid("a decision")
    paths = None if root is None else StudyPaths(root)
    study = None if paths is None else read_study(paths.root)
    kept = paths.predictors_of(grid.metric) if paths and own and kappa is None else None
    speeds = Speeds()
    if paths and study:
        speeds = read_speeds(paths, study.cluster, _own_speeds(paths, checksum(table)) if own else None)
    return _Law(grid, _versions(grid), fitted_predictors(grid, kept, kappa), kappa, study, paths, speeds)


def _own_speeds(paths: StudyPaths, rows: str) -> tuple[Speed, ...]:
    """Speeds of the study's finished runs. Reading their records takes longer than all else, so they are kept with the
    checksum of the table's rows."""
    with suppress(OSError, ValueError, LookupError, TypeError, UserError):
        kept = json.loads(paths.speeds.read_text(encoding="utf-8"))
        if kept["checksum"] == rows:
            return tuple(Speed.from_dict(each) for each in kept["speeds"])
    found = of_study(paths)
    with suppress(OSError, UserError):  # The directory may be another's.
        write_text(paths.speeds, json.dumps({"checksum": rows, "speeds": [s.to_dict() for s in found]}) + "\n")
    return found


def fitted_predictors(grid: Table, path: Path | None, kappa: float | None = None) -> dict[str, Predictor]:
    """{name: predictor} of `_versions`, from the file at `path` as far as it is of these very runs; else fitted now,
    and written there where that is possible."""
    tables = _versions(grid)
    made = load_predictors(path, tables) if path else {}
    if lacking := [name for name in tables if name not in made]:
        made |= {name: found for name in lacking if (found := _fitted(tables[name], kappa, name == grid.metric))}
        if path:
            with suppress(OSError, UserError):  # The directory may be another's.
                save_predictors(path, {name: (tables[name], found) for name, found in made.items()})
    return made


def keep_predictors(root: Path | str, metric: str = "loss") -> None:
    """Fit and write what `decide` asks of a study, so that it answers at once; nothing where there is no law."""
    paths = StudyPaths(root)
    with suppress(UserError):
        table = read_table(root, metric, also=measured(root, "", metric))
        _own_speeds(paths, checksum(table))
        fitted_predictors(table.grid(), paths.predictors_of(table.metric))


def _versions(grid: Table) -> dict[str, Table]:
    """{name: table}: the metric's own, each further one's, and that without its largest and its smallest budget."""
    out = {grid.metric: grid}
    for name in grid.columns:
        if len(other := of_metric(grid, name)) >= ENOUGH_RUNS:
            out[name] = other
    slices = grid.slices()
    if grid.is_isoflop() and len(slices) >= LEAST_BUDGETS:
        for budget, rows in (slices[-1], slices[0]):
            out[f"without the budget {compact(budget)}"] = grid.take(np.delete(np.arange(len(grid)), rows))
    return out


def _fitted(table: Table, kappa: float | None, needed: bool) -> Predictor | None:
    """The predictor, or None where the runs give none. needed: then raise UserError (status 3) that says why."""
    asked = ask(table, table.largest, kappa)
    if asked.predictor is None and needed:
        why = asked.refused.message if asked.refused else ""
        raise UserError(f"{table.where}: these runs do not decide it: {why}", status=3)
    return asked.predictor


def _budget(law: _Law, asked: dict[str, float], how: dict[str, Any]) -> Estimate:
    """The budget that is meant, in FLOPs, with an interval where it follows from something else."""
    if "budget" in asked:
        return Estimate(asked["budget"])
    if "gpu_hours" in asked or "deadline" in asked and not {*HOW_MUCH, *GIVEN} & asked.keys():
        return _affordable(law, asked)
    words, more = _words(asked), dict[str, Any]()
    grid, fitted = law.grid, law.fitted
    if "target_fid" in asked:
        grid, more = (grid if grid.metric == "fid" else of_metric(grid, "fid")), {"reach": asked["target_fid"]}
    elif "target_loss" in asked:
        if law.made.runs.log and asked["target_loss"] <= 0:
            raise UserError(f"decide: {words}: {grid.metric} is above 0; ask a value above 0")
        more = {"reach": asked["target_loss"]}
    elif "n_params" in asked:
        more = {"n_params": asked["n_params"]}
    elif "unique_images" in asked:
        more = how
    found = predict(grid, **more, kappa=law.kappa, fitted=fitted)
    _refuse(law, found)
    budget = found.choices[0].budget_flops
    if budget is None:
        raise UserError(_unreachable(law, grid, words, found.choices[0], asked))
    ends = budget.low, budget.high
    if None in ends or math.log((budget.high or 1) / (budget.low or 1)) > WIDEST_BUDGET:
        low, high = ("no bound" if end is None else compact(end) for end in ends)
        raise _undecided(law, f"{words} takes between {low} and {high} in FLOPs", 10 * law.grid.largest)
    return budget


def _words(asked: Mapping[str, float]) -> str:
    """The question as it was asked: "--gpu-hours 512 --deadline 30"."""
    return " ".join(f"--{name.replace('_', '-')} {compact(asked[name])}" for name in ASKED if name in asked)


def _refuse(law: _Law, found: Answers) -> None:
    """Raise UserError where the runs do not determine what was asked."""
    if found.findings:
        raise UserError(f"{law.grid.where}: these runs do not decide it: {found.findings[0].message}", status=3)


def _undecided(law: _Law, why: str, target: float) -> UserError:
    """The error that these runs do not decide, with what would."""
    plan = f"; {command('plan', law.paths.root, '--refine')} proposes more" if law.paths else ""
    return UserError(
        f"{law.grid.where}: these runs do not decide it: {why} (95 %); {_to_add(law, target)}{plan}", status=3
    )


def _to_add(law: _Law, target: float) -> str:
    budget, size, share = next_run(law.grid, law.made, target)
    run = run_to_add(size, budget, law.made.runs.kappa)
    return f"the run that would narrow N* most, to {100 * share:.0f} % of its interval by the design alone: {run}"


def _unreachable(law: _Law, grid: Table, words: str, choice: Choice, asked: Mapping[str, float]) -> str:
    """Why no budget within reach gives what was asked."""
    if not asked.keys() & {"target_loss", "target_fid"}:
        return f"decide: {words}: no budget within 1e6x of the grid has that as its optimum; ask nearer to the runs"
    if choice.what.endswith("any budget"):
        return f"decide: {words}: is reached at any budget, inside the grid too; ask a better {grid.metric}"
    far = law.fitted[grid.metric].optimum(1e6 * law.grid.largest).loss
    floor = f"{at_optimum(grid.metric)} is {spelled(far)} even at 1e6x the largest budget, near its floor"
    return f"decide: {words}: no budget reaches it; {floor}; ask a {grid.metric} above that"


def _affordable(law: _Law, asked: dict[str, float]) -> Estimate:
    """The budget that hours of devices, or days, pay for; its interval is that of the speed."""
    study, words = _studied(law, asked), _words(asked)
    by_hours, size = "gpu_hours" in asked, asked.get("n_params")
    goal = asked["gpu_hours"] if by_hours else DAY_S * asked["deadline"]
    budget, factor = 2 * law.grid.largest, 1.0
    for turn in range(MOST_STEPS):
        try:
            run = nearest_run(study, "probe", budget, size or law.made.optimum(budget).n_params.value, study.seeds[0])
        except UserError as error:
            raise UserError(f"decide: {words}: too little for a run here ({error})") from None
        paid = price([run], study, law.speeds)
        # Steps are whole, so a run is a little off its budget.
        spent = (paid.device_hours if by_hours else paid.wall_s) * budget / run.achieved_flops
        # Sizes are steps too, and the search must not jump between two for ever.
        step = (goal / spent) ** (1.0 if turn < MOST_STEPS // 3 else 0.5)
        budget, factor = budget * step, paid.factor
        if abs(math.log(step)) < CLOSE:
            break
    return Estimate(budget, budget / factor, budget * factor)


def _studied(law: _Law, asked: Mapping[str, float]) -> Study:
    if law.study is None:
        raise UserError(f"decide: {_words(asked)}: hours are those of a study's cluster; add --study DIR")
    return law.study


def _answered(law: _Law, asked: dict[str, float], found: Estimate, how: dict[str, Any]) -> Decision:
    """The decision at a budget."""
    budget = found.value
    # What each version of the table and each further metric says of this budget.
    asks = {n: ask(t, budget, law.kappa, law.fitted[n]) for n, t in law.tables.items() if n in law.fitted}
    metrics, notes = _known_metrics(law, asks)
    beside: dict[str, Any] = (
        {"n_params": asked["n_params"]} if "n_params" in asked else how if "unique_images" in asked else {}
    )
    answers = predict(law.grid, budget, **beside, metrics=metrics, kappa=law.kappa, fitted=law.fitted)
    _refuse(law, answers)
    best, chosen = answers.choices[0], _chosen(answers)
    size = chosen.n_params or best.n_params
    if best.n_params is None or best.n_tokens is None or best.loss is None or size is None:
        raise _undecided(law, f"no N* at {compact(budget)} FLOPs", budget)
    if "n_params" not in asked and _width(best.n_params) > WIDEST_PLACE:
        low, high = ("no bound" if e is None else count(e) for e in (best.n_params.low, best.n_params.high))
        raise _undecided(law, f"N* at {compact(budget)} FLOPs is between {low} and {high}", budget)
    if law.grid.rehearsal:
        notes.append(f"REHEARSAL: {law.grid.rehearsal}")
    run = None
    if law.study:
        run = nearest_run(law.study, "probe", budget, size.value, law.study.seeds[0])
        ratio = run.n_params / size.value
        if not 0.8 <= ratio <= 1.25:
            notes.append(f"the nearest size that the recipe builds is {ratio:.2g}x the one wanted")
        if "unique_images" not in asked:
            chosen = fixed(law.made, budget, "this size", float(run.n_params))
    # A budget that hours pay for is as unsure as the speed, which the cost holds already.
    follows = found if not asked.keys() & {"gpu_hours", "deadline"} else Estimate(budget)
    cost = None
    if run:
        try:
            cost = _cost(law, run, follows)
        except UserError as error:  # The cluster cannot execute this run.
            if "deadline" in asked:
                raise
            notes.append(f"no cost: {error}")
    _check_deadline(law, asked, cost)
    trained = float(run.n_params) if run else size.value
    tokens = float(run.n_tokens) if run else budget / law.made.runs.kappa / trained
    return Decision(
        question=_words(asked), metric=law.grid.metric, source=law.grid.source, n_runs=len(law.grid),
        budget_flops=found, factor=budget / law.grid.largest, n_params=best.n_params, n_tokens=best.n_tokens,
        optimum=best.loss, trained=trained, trained_tokens=tokens,
        loss=None if chosen is best else chosen.loss, one_run=_one_run(answers),
        over_optimum=chosen.penalty.value if chosen.penalty else None,
        regret=best.regret if chosen.regret is None else chosen.regret, metrics=answers.metrics,
        model=_model(law, run, asked) if run else None, cost=cost, changes=tuple(_changes(law, asks, budget, trained)),
        run_scatter=law.made.run_scatter, add=_to_add(law, budget), frontier=_frontier(law, budget), notes=tuple(notes),
    )  # fmt: skip


def _known_metrics(law: _Law, asks: Mapping[str, Asked]) -> tuple[list[str], list[str]]:
    """(the further metrics of which the runs say something at a budget, a line on each other one)."""
    known, notes = [], []
    for name in law.grid.columns:
        asked = asks.get(name)
        if asked and asked.whole:
            known.append(name)
        else:
            why = asked.refused.message if asked and asked.refused else "too few runs have it"
            notes.append(f"{name}: no answer: {why}")
    return known, notes


def _chosen(answers: Answers) -> Choice:
    """The best of the answers beside the optimum and its new run, or the optimum where there is none."""
    others = [c for c in answers.choices[2:] if c.loss is not None]
    return min(others, key=lambda c: c.loss.value if c.loss else math.inf, default=answers.choices[0])


def _one_run(answers: Answers) -> Estimate | None:
    return next((c.loss for c in answers.choices if c.what == "one new run there"), None)


def _width(e: Estimate) -> float:
    """ln(high / low); infinite where an end is open."""
    return math.inf if not e.low or not e.high else math.log(e.high / e.low)


def _model(law: _Law, run: Run, asked: Mapping[str, float]) -> Model:
    lr, by = Estimate(run.lr), "the recipe"
    if law.paths and law.paths.rates.exists() and (rates := read_rates(law.paths.rates)).ok:
        value = float(rates.rate_at(run.n_params, run.n_tokens))
        spread = math.exp(1.96 * (rates.scatter or 0.0))
        lr, by = Estimate(value, value / spread, value * spread), "the sweep's law"
    passes = run.n_images / asked["unique_images"] if "unique_images" in asked else None
    return Model(
        run.width, run.depth, run.n_params, run.n_tokens, run.n_images, run.recipe.batch_size, run.steps, lr, by, passes
    )


def _cost(law: _Law, run: Run, found: Estimate) -> Cost:
    """Of a run at a budget that is as unsure as `found`."""
    assert law.study is not None
    paid = price([run], law.study, law.speeds)

    def spread(value: float) -> Estimate:
        ends = [0.0 if end is None else math.log(end / found.value) for end in (found.low, found.high)]
        low, high = (math.exp(math.hypot(math.log(paid.factor), end)) for end in ends)
        return Estimate(value, value / low, value * high)

    return Cost(paid.device, spread(paid.device_hours), spread(paid.wall_s / DAY_S), paid.sources)


def _check_deadline(law: _Law, asked: dict[str, float], cost: Cost | None) -> None:
    """Raise UserError where what was asked beside a deadline takes longer."""
    if "deadline" not in asked:
        return
    _studied(law, asked)
    if cost and cost.days.value > asked["deadline"] * 1.005:
        takes = f"it takes {spelled(cost.days, compact)} days on this cluster"
        raise UserError(f"decide: {_words(asked)}: {takes}; allow more days, or ask --deadline alone for what fits")


def _changes(law: _Law, asks: Mapping[str, Asked], budget: float, size: float) -> Iterable[Change]:
    """The answer by each form alone, by Approach 2 and 3, without a budget, and by each further metric."""
    ours, others = law.made.optimum(budget).n_params.value, [*by_forms("", law.grid, budget, law.made)][1:]
    for said in others:
        if said.n_params is None or said.form in ("approach 3, ls", "approach 3, ls_log"):
            continue
        form = law.made.only(said.form) if not said.form.startswith("approach") else None
        lost = form.regret(budget, size) if form and form.members else None
        yield Change(f"the form: {said.form}", said.n_params, said.loss, said.n_params / ours, lost)
    for name, asked in asks.items():
        if name == law.grid.metric:
            continue
        is_metric = name in law.grid.columns
        what = f"{name} decides" if is_metric else name
        if asked.predictor is None or "N*" in asked.lacks:
            yield Change(what, None, None, None, None)
            continue
        best = asked.predictor.optimum(budget)
        loss = None if is_metric or asked.lacks else best.loss.value
        lost = None if asked.lacks else asked.predictor.regret(budget, size)
        yield Change(what, best.n_params.value, loss, best.n_params.value / ours, lost)


def _frontier(law: _Law, budget: float) -> tuple[Place, ...]:
    places = []
    for c in np.geomspace(law.grid.budget_flops.min(), budget, FRONTIER).tolist():
        best = law.made.optimum(c)
        places.append(Place(c, best.n_params, best.loss))
    return tuple(places)
