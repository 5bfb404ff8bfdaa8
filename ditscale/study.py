"""What `import ditscale as ds` offers on studies and runs: the functions under the verbs plan, run and evaluate, and
`Study`, a study directory. Results are tables that a notebook shows."""

import math
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from . import units
from .config import Evaluation
from .config import Study as StudySettings
from .errors import UserError, nearest
from .naming import RunPaths, StudyPaths
from .pipeline import checked_plan, compose_study, plan_study, refuse_misfit
from .plan import grid
from .plan.checks import listed, refuse
from .plan.run import Run, read_run
from .plan.study import read_study

if TYPE_CHECKING:
    from .early.verdict import EarlyVerdict
    from .launch.monitor.status import RunStatus
    from .laws import Forecast, Laws, Ledger, Table
    from .precision.next_runs import NextRuns
    from .precision.planned import Planned
    from .precision.studies import Cheapest

SHOWN_ROWS = 7  # of a table in `repr`, which is ten lines at most
PROGRESS_S = 2.0  # between two calls of a progress function


@dataclass(frozen=True, repr=False)
class Rows(Sequence[Mapping[str, Any]]):
    """Rows of a table, each a mapping of column names to values, that a notebook shows.

    for run in ds.Study.open("mystudy").runs(): print(run["run_id"], run["n_params"])"""

    title: str
    rows: tuple[Mapping[str, Any], ...]
    columns: tuple[str, ...]  # those shown; `to_frame` has all
    notes: tuple[str, ...] = ()  # lines below
    text: str = ""  # what the verb prints

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def _shown(self, most: int) -> tuple[list[list[str]], str]:
        """Cells of the first rows, and how many rows are left."""
        cells = [[_cell(row.get(name)) for name in self.columns] for row in self.rows[:most]]
        return cells, f"... and {len(self) - most} more rows" if len(self) > most else ""

    def __repr__(self) -> str:
        cells, more = self._shown(SHOWN_ROWS)
        widths = [max(map(len, column)) for column in zip(self.columns, *cells)]
        lines = ["  ".join(f"{cell:>{w}}" for cell, w in zip(row, widths)).rstrip() for row in (self.columns, *cells)]
        return "\n".join(filter(None, [self.title, *lines, more]))

    def _repr_html_(self) -> str:
        cells, more = self._shown(30)
        head, *body = [
            f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in row)}</tr>"
            for tag, row in [("th", self.columns), *(("td", row) for row in cells)]
        ]
        lines = "".join(f"<p>{escape(line)}</p>" for line in filter(None, [more, *self.notes]))
        return f"<p>{escape(self.title)}</p><table><thead>{head}</thead><tbody>{''.join(body)}</tbody></table>{lines}"

    def summary(self) -> str:
        """The text that the verb prints."""
        return self.text or "\n".join([repr(self), *self.notes])

    def to_dict(self) -> dict[str, Any]:
        """The value that the verb prints with --json."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("columns", "text")}

    def to_frame(self) -> Any:
        """A pandas DataFrame of all columns. Raises UserError where pandas is not installed."""
        from .laws.notebook import frame

        return frame([dict(row) for row in self.rows])


class _Asked(NamedTuple):
    """What is asked of a plan: its study and runs; whether they do not determine the law; how many studies to simulate
    for its precision, 0 for none; the precision that the cheapest design is to have, "" for none; and how many unique
    images there are."""

    study: StudySettings
    runs: tuple[Run, ...]
    lacking: bool
    simulated: int = 0
    goal: str = ""
    unique: float = math.inf


@dataclass(frozen=True, repr=False)
class Plan(Rows):
    """The runs of a study."""

    dropped: tuple[Mapping[str, Any], ...] = ()  # cells of the grid without a run, with reasons
    flops: float = 0.0  # of training all runs
    dir: str = ""  # where the plan was written, "" for nowhere
    price: Mapping[str, Any] = field(default_factory=dict)  # what it costs (docs/planning.md)
    # What was found before it was written (docs/planning.md): code, severity, message, cure, value, runs.
    checks: tuple[Mapping[str, Any], ...] = ()
    asked: "_Asked | None" = None  # the study itself, of which `precision` and `cheapest` are computed

    @cached_property
    def precision(self) -> "Planned | None":
        """The 95 % intervals of L*, N* and its exponent that these runs will give at the probe's budget, before any is
        trained; None where the runs are too few for a law: `ds.plan("study=paper").precision.loss.width`. About a
        second."""
        if not self.asked or self.asked.lacking:
            return None
        from .precision.studies import planned_of

        return planned_of(self.asked.study, self.asked.runs, self.asked.simulated)

    @cached_property
    def cheapest(self) -> "Cheapest | None":
        """The cheapest design found whose intervals are as narrow as was asked; None where nothing was asked."""
        if not self.asked or not self.asked.goal:
            return None
        from .launch.afford import hours_of
        from .precision.studies import Goal, cheapest

        study, goal = self.asked.study, Goal.of(self.asked.goal)
        return cheapest(study, goal, self.asked.unique, hours_of(study, StudyPaths(self.dir) if self.dir else None))

    def summary(self) -> str:
        parts = (self.precision, self.cheapest)
        return "\n".join([super().summary(), *(part.summary() for part in parts if part)])

    def to_dict(self) -> dict[str, Any]:
        rest = {name: value for name, value in super().to_dict().items() if name != "asked"}
        parts = {"precision": self.precision, "cheapest": self.cheapest}
        return rest | {name: part and part.to_dict() for name, part in parts.items()}


@dataclass(frozen=True)
class TrainingResult:
    """How an attempt at a run ended. state: "finished", "stopped" (train again to resume) or "diverged". images and
    loss: as `Study.status` has them; of a finished run, the validation loss. reason: why the run did not finish."""

    run_id: str
    state: str
    images: int
    loss: float | None
    reason: str = ""


def plan(
    *settings: str, dir: Path | str | None = None, configs: Path | str | None = None, simulate: int = 0,
    target_interval: str = "", unique_images: float = math.inf,
) -> Plan:  # fmt: skip
    """Plan a study from Hydra overrides: budgets (FLOPs) x widths x seeds to runs. Writes only where `dir` is given.

    `precision` of the result says what the runs will tell before any is trained, `simulate` studies drawn for it where
    that is above 0; `cheapest` is the cheapest design of a precision, target_interval="2%" or "2%,1.3x" (L* within 2 %,
    N* within a factor of 1.3), where passes over unique_images beyond the first cost as many times the FLOPs.

    Rows hold n_params (N), n_tokens (D), n_images, steps, budget_flops (C) and lr of each run. Raises UserError on a
    setting that is not known, on an impossible study, where a check finds an error, and where `dir` holds another one.

        ds.plan("study=mini", "budgets=[2e11,8e11]")
    """
    search = Path(configs) if configs else None
    if dir is None:
        study = compose_study(settings, search)
        planned = checked_plan(study)
        refuse(planned.checks)
        refuse_misfit(study, planned)
        return _plan_of(study, planned, "", simulate, target_interval, unique_images)
    paths, planned = plan_study(dir, settings, search)
    settings_now = Study.open(paths.root).settings
    return _plan_of(settings_now, planned, str(paths.root), simulate, target_interval, unique_images)


def train(run_dir: Path | str, progress: Callable[[dict[str, Any]], None] | None = None) -> TrainingResult:
    """Train one run in this process, as `ditscale run` does; a run that was stopped resumes. Minutes to days.

    progress: called every two seconds, from a thread of its own, with the run's row of `Study.status` (state, images,
    loss, images_per_s, eta_s). Raises UserError where RUN_DIR holds no run, or another process trains it.

        ds.train(ds.Study.open("mystudy").runs()[0]["dir"])
    """
    from .launch.job.execute import run
    from .launch.monitor.status import run_status
    from .rundir.outcomes import Diverged, RankLost, Stopped

    at = RunPaths(run_dir)
    planned, reason = read_run(at.run), ""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        with _repeated(lambda: progress(status_row(run_status(at, planned)))) if progress else nullcontext():
            state = run(at)
    except RankLost as error:
        raise UserError(str(error)) from None
    except (Stopped, Diverged) as error:
        state, reason = error.state, str(error)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    end = run_status(at, planned)
    return TrainingResult(planned.run_id, state, end.images, end.loss, reason)


def evaluate(
    run_dir: Path | str, metrics: Sequence[str] | None = None, *, datasets: Sequence[str] = (),
    ema: float | None = None, seed: int | None = None, batch_size: int | None = None, samples: int | None = None,
    **how: Any,
) -> Rows:  # fmt: skip
    """Measure a finished run and draw samples, into evaluation.h5; skips results measured with the same settings.

    metrics: of val_loss, vlb, likelihood and fid; by default the study's. datasets: the run's own data, labels of
    validation.also, or LABEL=FILE. ema: window of the EMA weights, as a share of the run. how: keys of the study's
    `evaluation`, such as n, steps, guidance, few. Each row has value, se (standard error) and unit. Raises UserError,
    and writes nothing, at what cannot be measured.

        ds.evaluate(run_dir, metrics=["val_loss", "fid"], n=4096)
    """
    known = [f.name for f in fields(Evaluation)]
    for name in how:
        if name not in known:
            raise UserError(f"evaluate: unknown option {name!r}{nearest(name, known)}; choose of: {', '.join(known)}")
    defaults = read_run(RunPaths(run_dir).run).evaluation
    if "n" in how:
        how = {"few": False} | how  # The study's consent to few images is for its own n.
    chosen = [metrics] if isinstance(metrics, str) else list(metrics or defaults or ["val_loss"])
    settings = {name: replace(defaults.get(name, Evaluation()), **how) for name in chosen}
    labels = [text.split("=", 1)[0] for text in datasets]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise UserError(f"--dataset {twice}: given twice; name each data set once")
    files = dict(text.split("=", 1) for text in datasets if "=" in text)

    from .evaluate import run as evaluation  # Loads torch, which a mistake above need not wait for.

    more = {} if samples is None else {"samples": samples}
    asked = evaluation.Settings(settings, tuple(labels), files, seed, batch_size, ema=ema, **more)
    measurement = evaluation.evaluate(run_dir, asked)
    columns = ("dataset", "metric", "value", "se", "unit", "n")
    names = (*columns, "seed", "settings", "wall_s", "evaluations")
    rows = tuple({name: getattr(result, name) for name in names} for result in measurement.results)
    title = f"{measurement.run.run_id}: {len(rows)} results, {measurement.samples} samples"
    return Rows(title, rows, columns, text=measurement.summary())


@dataclass(frozen=True, repr=False)
class Study:
    """A study directory, as `ditscale plan` writes it: `study = ds.Study.open("mystudy")`, then `study.status()`."""

    root: Path
    settings: StudySettings  # the content of study.yaml

    @classmethod
    def open(cls, root: Path | str) -> Self:
        """The study in a directory. Raises UserError where there is none: `ds.Study.open("mystudy")`."""
        return cls(Path(root), read_study(root))

    @property
    def paths(self) -> StudyPaths:
        """Every file of the study: `study.paths.table`."""
        return StudyPaths(self.root)

    def __repr__(self) -> str:
        names = ("table", "laws", "forecast", "verdict", "rates", "report")
        there = [at.name for at in (getattr(self.paths, name) for name in names) if at.exists()]
        budgets = ", ".join(map(units.compact, self.settings.budgets))
        what = f"{len(self.paths.run_dirs())} runs planned; design {self.settings.design.name}; budgets {budgets} FLOPs"
        holds = ", ".join(there) or "no results yet"
        return f"Study {self.settings.name} in {self.root}\n{what}\nholds {holds}"

    def _repr_html_(self) -> str:
        return f"<pre>{escape(repr(self))}</pre>"

    def plan(self, simulate: int = 0, target_interval: str = "", unique_images: float = math.inf) -> Plan:
        """The study's plan, as it stands, and options as of `ds.plan`; writes nothing: `study.plan().to_frame()`."""
        runs, root = checked_plan(self.settings), str(self.root)
        return _plan_of(self.settings, runs, root, simulate, target_interval, unique_images)

    def runs(self) -> Rows:
        """All planned runs, the probe too, with the directory of each: `study.runs()[0]["dir"]`."""
        rows = tuple(_row(read_run(at.run)) | {"dir": str(at.root)} for at in self.paths.run_dirs())
        return Rows(f"{len(rows)} runs in {self.root}", rows, ("run_id", "role", "n_params", "n_tokens"))

    def status(self) -> Rows:
        """State, progress, loss, speed (images/s) and seconds left of every run, now: `study.status()`."""
        from .launch.monitor.slurm_status import with_slurm
        from .launch.monitor.status import table

        statuses = with_slurm(self.paths)
        text = table(statuses, self.settings.cluster.peak_flops_per_s)
        columns = ("run_id", "state", "images", "loss", "images_per_s", "eta_s")
        return Rows(text.splitlines()[-1], tuple(map(status_row, statuses)), columns, text=text)

    def collect(self) -> Rows:
        """Collect finished runs into study.h5 and study.csv; notes list the runs left out: `study.collect()`."""
        from .collect.table import collect

        collection = collect(self.root)
        title, *notes = collection.summary().splitlines()
        columns = ("run_id", "role", "budget_flops", "n_params", "n_tokens", "loss")
        return Rows(title, collection.rows, columns, tuple(notes), collection.summary())

    def table(self, metric: str = "loss", **how: Any) -> "Table":
        """The table that laws are fitted to, collected if need be; options of `ds.read_table`: `study.table("fid")`."""
        from .laws import read_table

        if not self.paths.table.exists():
            self.collect()
        return read_table(self.root, metric, **how)

    def laws(self, metric: str = "loss", **how: Any) -> "Laws":
        """The study's laws, at the probe's budget too; writes nothing. Options as of `ds.fit`: `study.laws(seed=1)`."""
        from .laws import fit

        return fit(self.table(metric), **{"targets": (units.compact(self.settings.probe_budget),)} | how)

    def forecast(self, budget: float | str | None = None) -> "Forecast":
        """The sealed forecast, or before there is one, or at another budget (FLOPs), a new one, which is not sealed:
        `study.forecast("1.5e21")`. `ditscale forecast DIR` seals."""
        from .laws import forecast, load_forecast

        if budget is None and self.paths.forecast.exists():
            return load_forecast(self.paths.forecast)
        budget = self.settings.probe_budget if budget is None else units.number(budget, "budget", above=0)
        return forecast(self.table(), budget)

    def early_verdict(self) -> "EarlyVerdict":
        """The probe's final loss by its curve so far, and alarms, while it trains: `study.early_verdict().alarms`."""
        from .pipeline import give_early_verdict

        return give_early_verdict(self.root)

    def refine(self, target_interval: str, gpu_hours: float = math.inf, add: bool = False) -> "NextRuns":
        """The runs to train next so that the forecast is as narrow as "2%", or "2%,1.3x" for N* too, for at most so
        many device-hours; add plans them: `study.refine("2%").runs`. Reads the finished runs."""
        from .launch.afford import hours_of
        from .precision.next_runs import next_runs
        from .precision.studies import Goal

        goal, hours = Goal.of(target_interval, "target_interval"), hours_of(self.settings, self.paths)
        return next_runs(self.root, goal, hours, gpu_hours, add)

    def report(self, ledger: "Ledger | Path | str | None" = None) -> Path:
        """Write report/index.html and its figures; returns the page: `study.report()`. ledger: a record of several
        studies' forecasts (`ds.ledger`), or its file, to show as well."""
        from .report.page import write_report

        return write_report(self.root, ledger)


def _plan_of(
    study: StudySettings, planned: grid.Plan, root: str = "", simulated: int = 0, goal: str = "",
    unique: float = math.inf,
) -> Plan:  # fmt: skip
    from .launch.afford import price_of

    rows = tuple(_row(run) for run in planned.runs)
    title = f"{study.name}: {len(rows)} runs, {units.compact(planned.flops)} FLOPs"
    columns = ("budget_flops", "width", "depth", "n_params", "n_images", "steps", "lr")
    checks = listed(planned.checks)
    notes = (*([f"nested: {planned.note}"] if planned.note else []), *checks)
    dropped, found = (tuple(map(asdict, each)) for each in (planned.dropped, planned.checks))
    n = Counter(check.severity for check in planned.checks)
    counts = [f"{number} {severity}{'s' * (number != 1)}" for severity, number in n.items()]
    head = f"checks: {', '.join(counts) or 'nothing found'}"
    cost, priced = None, ""
    if not study.rehearsal:
        try:
            cost = price_of(study, planned.runs, StudyPaths(root) if root else None)
            priced = cost.summary()
        except UserError as error:  # The plan is good; where it is launched, it may not be.
            priced = f"price: {error}"
    text = "\n".join(filter(None, (grid.table(planned), head, *(f"  {line}" for line in checks), priced)))
    in_json = cost.to_dict() if cost else {}
    lacking = any(check.code == "not_identified" for check in planned.checks)
    asked = _Asked(study, planned.runs, lacking, simulated, goal, unique)
    return Plan(title, rows, columns, notes, text, dropped, planned.flops, root, in_json, found, asked)


def _row(run: Run) -> dict[str, Any]:
    names = "run_id role budget_flops achieved_flops width depth seed n_params n_images n_tokens steps lr within"
    return {name: getattr(run, name) for name in names.split()}


def status_row(status: "RunStatus") -> dict[str, Any]:
    """One run of `ditscale status --json`."""
    names = "state images loss images_per_s eta_s attempt job host reason"
    whole = {"run_id": status.run.run_id, "n_images": status.run.n_images}
    cost = {f"{name}_s": getattr(status.spent, f"{name}_s") for name in ("lost", "data_wait")}
    cost |= {"spent_s": status.spent.seconds, "devices": status.spent.devices}
    return whole | {name: getattr(status, name) for name in names.split()} | cost


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return units.compact(value) if abs(value) >= 1e4 else f"{value:.4g}"
    return "" if value is None else str(value)


@contextmanager
def _repeated(function: Callable[[], None]) -> Iterator[None]:
    """Call a function every PROGRESS_S seconds from a thread, and once more at the end."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(PROGRESS_S):
            function()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        function()
