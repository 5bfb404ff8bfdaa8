"""Whether Slurm takes the jobs of a plan. Silent where no Slurm answers: a plan can be made anywhere."""

import shutil
from collections.abc import Iterator

from ... import slurm_client
from ...config import Study
from ..grid import Plan
from .check import Check, found

PATIENCE_S = 2.0  # A controller that needs longer is not asked anything else.


def check_cluster(study: Study, plan: Plan) -> Iterator[Check]:
    """`array_split`, `several_launches` and `queue_limit`. Each training is a job; nested runs are none."""
    if study.cluster.name != "slurm":
        return
    jobs, at_once = sum(not run.within for run in plan.runs), study.cluster.max_queued
    if 0 < at_once < jobs:
        text = (
            f"{jobs} jobs, of which cluster.max_queued lets {at_once} be queued at once: {-(-jobs // at_once)} launches"
        )
        yield found("several_launches", text, "launch again as jobs end; each launch submits what is missing", jobs)
    limit = slurm_client.array_limit(PATIENCE_S) if shutil.which("scontrol") else None
    if limit is None:
        return
    if 1 < limit < jobs and not at_once:
        text = f"{jobs} jobs, and an array holds {limit} here (MaxArraySize): at least {-(-jobs // limit)} arrays"
        yield found("array_split", text, "nothing to do: `ditscale launch` splits them", jobs)
    if not at_once:
        account = study.cluster.account
        limits = {name: n for name, n in slurm_client.submit_limits(PATIENCE_S).items() if account in ("", name)}
        name = min(limits, key=lambda each: limits[each], default="")
        if name and limits[name] < jobs:
            text = f"{jobs} jobs, and account {name} may queue {limits[name]} (MaxSubmitJobs)"
            yield found("queue_limit", text, f"set cluster.max_queued={limits[name]}", jobs)
