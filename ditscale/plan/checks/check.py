"""What a check of a plan finds: a fixed vocabulary of codes, which docs/planning.md explains."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ...errors import UserError
from ...result import Result
from ..run import Run

if TYPE_CHECKING:
    from ...config import Study
    from ..grid import Plan

Severity = Literal["error", "warning", "info"]
# "error": nothing is written or submitted; "warning": the runs or their law may mislead; "info": worth knowing.
BY_SEVERITY: dict[Severity, str] = {
    "error": "data_file data_shapes too_few_images unlike_files",
    "warning": "data_missing held_out_is_training many_passes few_steps long_warmup many_steps costly_evaluation "
    "wide_grid one_sided_grid drifting_centring not_identified queue_limit",
    "info": "not_nested exact_flops probe_passes array_split several_launches",
}
CODES: dict[str, Severity] = {code: severity for severity, codes in BY_SEVERITY.items() for code in codes.split()}


@dataclass(frozen=True)
class Check(Result):
    """One finding about a plan. value: the number in the message that was compared with a limit; cure: what to type."""

    code: str
    severity: Severity
    message: str
    cure: str
    value: float | None = None
    runs: tuple[str, ...] = ()  # Ids of the runs it is about; empty: all of them.

    def __str__(self) -> str:
        return f"{self.severity}: {self.code}: {self.message}; {self.cure}"


Checker = Callable[["Study", "Plan"], Iterable[Check]]


def found(code: str, message: str, cure: str, value: float | None = None, runs: Iterable[Run] = ()) -> Check:
    """A finding of the severity that `CODES` gives its code."""
    return Check(code, CODES[code], message, cure, value, tuple(run.run_id for run in runs))


def listed(checks: Sequence[Check]) -> list[str]:
    """One line for each; a cure that the line before has too is not repeated."""
    before = ["", *(check.cure for check in checks)]
    cures = ["as above" if check.cure == last else check.cure for check, last in zip(checks, before, strict=False)]
    return [f"{c.severity}: {c.code}: {c.message}; {cure}" for c, cure in zip(checks, cures, strict=True)]


def refuse(checks: Sequence[Check]) -> None:
    """Raise UserError with the first error, and the number of the others."""
    errors = [check for check in checks if check.severity == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more of such errors)" if len(errors) > 1 else ""
        raise UserError(f"{errors[0].message}; {errors[0].cure}{more}")


def size(run: Run) -> str:
    """'128x2 at 6e18': a run, in the words of the plan's table."""
    from ...units import compact

    return f"{run.width}x{run.depth} at {compact(run.budget_flops)}"
