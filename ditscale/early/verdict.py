"""`verdict --early`: what a probe that still trains is on its way to, against the sealed forecast, and its alarms."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UserError
from ..laws import Estimate, Forecast, Table, predictor
from ..laws.notebook import Shown
from ..laws.text import spelled
from ..units import compact, count
from .alarms import LEAST_SIZES, NAMES, QUANTITIES, Alarm, Deviation, alarms_of, deviations, least_images
from .collapse import final_loss
from .curves import Curve


@dataclass(frozen=True, repr=False)
class EarlyVerdict(Shown):
    """A probe that has trained `images` of `n_images`. state: of the run. loss: the measured loss to expect at its end,
    None while its curve or the grid's are too short; covered: whether smaller runs reached as many images per
    parameter. sealed: the forecast's loss. deviations: the newest of each quantity; alarms: the first of each quantity
    that left its band."""

    LAYOUT = 1

    run_id: str
    state: str
    images: int
    n_images: int
    budget_flops: float
    loss: Estimate | None
    covered: bool
    sealed: Estimate
    deviations: tuple[Deviation, ...]
    alarms: tuple[Alarm, ...]
    forecast_sha256: str

    @property
    def exit_code(self) -> int:
        return 1 if self.alarms else 0

    def heading(self) -> str:
        share = f"{self.images / self.n_images:.1%} of {count(self.n_images)} images"
        return f"probe {self.run_id} ({compact(self.budget_flops)} FLOPs): {self.state}, {share}"

    def main(self) -> dict[str, Estimate]:
        early = {"loss, by its curve": self.loss} if self.loss else {}
        return early | {"loss, as sealed": self.sealed}

    def summary(self) -> str:
        lines = [self.heading(), f"  final loss     {self._expected()}", f"  as sealed      {spelled(self.sealed)}"]
        for found in self.deviations:
            lines.append(f"  {NAMES[found.quantity]:<14} {found}")
        if not self.deviations:
            lines.append(f"  no alarm is possible here: fewer than {LEAST_SIZES} sizes of the grid trained as far")
        lines += [f"ALARM {alarm}" for alarm in self.alarms]
        return "\n".join(lines if self.alarms else [*lines, "no alarm"] if self.deviations else lines)

    def _expected(self) -> str:
        if self.loss is None:
            return "cannot be predicted yet: the curve is too short"
        low, high = self.loss.low, self.loss.high
        outside = not self.sealed.covers(self.loss.value)
        apart = low is not None and high is not None and not (self.sealed.covers(low) or self.sealed.covers(high))
        apart = apart and outside
        where = "far outside" if apart else "outside" if outside else "inside"
        far = "" if self.covered else "; no smaller run saw as many images per parameter, so trust it less"
        return f"{spelled(self.loss)} by its curve so far, {where} the sealed interval{far}"


def early_verdict(sealed: Forecast, grid: Sequence[Curve], probe: Curve, state: str, n_images: int) -> EarlyVerdict:
    """The early verdict on `sealed` by the curve of its probe so far and those of the grid's runs. Raises UserError
    where no curve of the grid reaches far enough, or the probe has trained too little to say anything."""
    if not grid:
        raise UserError("the grid's runs have no training curves here, so there is no early verdict")
    if probe.last < (least := least_images(grid, probe)):
        began = f"probe {probe.run_id} has trained {count(probe.last)} of {count(n_images)} images"
        raise UserError(f"{began}, too few for an early verdict; ask again at {count(least)}")
    rows = sealed.inputs.rows
    names = ("n_params", "n_tokens", "budget_flops", "loss", "run_id")
    law = predictor(Table.of(**{name: [getattr(row, name) for row in rows] for name in names}))
    found = final_loss(grid, probe, law.exponent("model", sealed.target_budget_flops))
    seen = {quantity: deviations(grid, probe, quantity) for quantity in QUANTITIES}
    if found is None and not any(seen.values()):
        short = f"fewer than {LEAST_SIZES} sizes of the grid trained as many images as probe {probe.run_id}"
        raise UserError(f"{short}, and none as many per parameter, so there is no early verdict")
    return EarlyVerdict(
        run_id=probe.run_id, state=state, images=round(probe.last), n_images=n_images,
        budget_flops=sealed.target_budget_flops, loss=found and found[0], covered=bool(found and found[1]),
        sealed=sealed.loss, deviations=tuple(of[-1] for of in seen.values() if of), alarms=alarms_of(seen, n_images),
        forecast_sha256=sealed.sha256 or "",
    )  # fmt: skip
