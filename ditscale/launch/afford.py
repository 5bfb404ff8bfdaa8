"""What a study has spent and still needs, against its budget."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from .. import units
from ..config import Study
from ..errors import UserError, command
from ..naming import StudyPaths
from ..plan.run import Run
from ..price.price import Price, price, with_probe
from ..price.records import read_speeds
from ..price.resources import Machine, place_of, times
from ..price.spent import Total, total
from .backends.local import machine
from .monitor.status import DONE, RunStatus, study_status


@dataclass(frozen=True)
class Outlook:
    """Hours of devices, spent and still needed."""

    spent: Total
    left: Price
    left_hours: float  # of `left`, without what is trained of its runs

    def summary(self) -> str:
        """A line of `ditscale status`."""
        text = str(self.spent) or "nothing spent yet"
        if self.left_hours:
            text += f"; about {units.compact(self.left_hours)} {self.left.device}-hours to go"
        limit = self.left.limit_hours
        return text + (f", of budget.gpu_hours={units.compact(limit)}" if limit else "")


def machine_of(study: Study) -> Machine:
    """This machine where the study is trained on it; on Slurm it does not count."""
    return machine(study.cluster) if study.cluster.name == "local" else Machine()


def price_of(study: Study, runs: Sequence[Run], paths: StudyPaths | None = None) -> Price:
    """The price of these runs and of the probe, whose size is guessed where it is not planned. Raises UserError."""
    speeds, here = read_speeds(paths, study.cluster), machine_of(study)
    every, guessed = with_probe(study, runs)
    if guessed:
        try:
            place_of(every[-1], study.cluster, here)
        except UserError:  # No row of cluster.sizes holds a guess: the probe itself will say so once it is planned.
            every, guessed = [*runs], False
    return price(every, study, speeds, here, guessed)


def hours_of(study: Study, paths: StudyPaths | None = None) -> Callable[[Run], float]:
    """What gives the device-hours of a training, as if it were no rehearsal. Raises UserError where it has no place."""
    speeds, here = read_speeds(paths, study.cluster), machine_of(study)

    def hours(run: Run) -> float:
        place = place_of(run, study.cluster, here)
        return times(replace(run, rehearsal=None), place, speeds).total_s * place.devices / 3600

    return hours


def known_speeds(study: Study, runs: Sequence[Run], paths: StudyPaths) -> dict[int, float]:
    """FLOP/s of a rank by n_params, where they were measured on this cluster: for the ETA of runs not begun yet."""
    speeds, here = read_speeds(paths, study.cluster), machine_of(study)
    if not speeds.sources or study.rehearsal:
        return {}
    places = {run.n_params: (run, place_of(run, study.cluster, here)) for run in runs}
    return {n: speeds.of(run, place.gpu, place.threads).flops_per_s for n, (run, place) in places.items()}


def outlook(
    paths: StudyPaths, study: Study, statuses: Sequence[RunStatus], among: Callable[[Run], bool] = lambda run: True
) -> Outlook:
    """What was spent on all runs, and what those `among` them that are not done will take."""
    open_runs = {s.run.run_id: s for s in statuses if s.state not in DONE and among(s.run)}
    left = price([s.run for s in open_runs.values()], study, read_speeds(paths, study.cluster), machine_of(study))
    share = lambda run_id: 1 - open_runs[run_id].images / open_runs[run_id].run.n_images
    hours = sum(p.device_hours * share(p.run_id) for p in left.runs)
    return Outlook(total(s.spent for s in statuses), left, hours)


def check_budget(paths: StudyPaths, study: Study, among: Callable[[Run], bool] = lambda run: True, probe: bool = False):
    """Raise UserError where the runs that are missing `among` the study's, with the probe where it follows, would take
    its spending beyond budget.gpu_hours."""
    limit = study.budget.gpu_hours if study.budget else 0.0
    if not limit or study.rehearsal:
        return
    statuses = study_status(paths)
    found = outlook(paths, study, statuses, among)
    hours, factor = found.left_hours, found.left.factor
    if probe:
        _, guessed = with_probe(study, [s.run for s in statuses])
        if guessed:
            part = price_of(study, [s.run for s in statuses], paths).part("probe")
            hours += part.device_hours if part else 0.0
    needed = found.spent.hours + hours
    if hours and needed > limit:
        unit, span = f"{found.left.device}-hours", f"within a factor {factor:.2g}"
        spent = f", besides {units.compact(found.spent.hours)} spent" * bool(found.spent.hours)
        what = "the study, its probe included," if probe else "this launch"
        takes = f"{what} takes about {units.compact(hours)} {unit} ({span}){spent}"
        raised = command("study" if probe else "launch", paths.root, f"budget.gpu_hours={units.compact(1.01 * needed)}")
        cure = f"allow it with {raised}, or plan fewer or smaller budgets"
        raise UserError(f"budget.gpu_hours: {units.compact(limit)} {unit}, but {takes}; {cure}")
