"""What `decide` answers: a model to train, what it costs, how far that can be trusted, and what would change it."""

from collections.abc import Callable
from dataclasses import dataclass

from ..laws.estimates import Estimate
from ..laws.notebook import Shown
from ..laws.text import cells, columns, ends, short, spelled
from ..quantities import at_optimum
from ..result import Result
from ..units import compact, count


@dataclass(frozen=True)
class Model(Result):
    """What is to be trained, as the study's recipe builds it: the nearest size, in whole steps. lr: by `lr_source`;
    passes: over the unique images, where their number was given."""

    width: int
    depth: int
    n_params: int
    n_tokens: int
    n_images: int
    batch_size: int
    steps: int
    lr: Estimate
    lr_source: str
    passes: float | None = None


@dataclass(frozen=True)
class Cost(Result):
    """What training the model costs on the study's cluster; device: "GPU" or "core". The intervals hold the
    factor within which the speed is trusted and, where it was asked for, what is not known of the budget."""

    device: str
    device_hours: Estimate
    days: Estimate
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Change(Result):
    """The answer if one thing were otherwise: N* and the metric there; ratio: that N* over the answer's; lost: the
    share of the budget that training the answer's size would then lose. None: it says nothing of that."""

    what: str
    n_params: float | None
    loss: float | None
    ratio: float | None
    lost: float | None


@dataclass(frozen=True)
class Place(Result):
    """The optimum at one budget on the way: N* and the metric there."""

    budget_flops: float
    n_params: Estimate
    loss: Estimate


@dataclass(frozen=True, repr=False)
class Decision(Shown):
    """What to train, and how far that can be trusted. budget_flops: with an interval where it was asked. factor: over
    the table's largest. n_params, n_tokens, optimum: N*, D* and the metric there; one_run: what a new run there will
    measure; metrics: of that size. trained, trained_tokens: the N and D that are decided; loss: theirs, None where they
    are the optimum's; regret: see `questions.Choice`. changes: what would change the answer; add: the run that would
    narrow it most. frontier: from the smallest budget to this one."""

    LAYOUT = 1

    question: str
    metric: str
    source: str
    n_runs: int
    budget_flops: Estimate
    factor: float
    n_params: Estimate
    n_tokens: Estimate
    optimum: Estimate
    trained: float
    trained_tokens: float
    loss: Estimate | None
    one_run: Estimate | None
    over_optimum: float | None
    regret: float | None
    metrics: dict[str, Estimate]
    model: Model | None
    cost: Cost | None
    changes: tuple[Change, ...]
    run_scatter: float
    add: str
    frontier: tuple[Place, ...]
    notes: tuple[str, ...] = ()

    def heading(self) -> str:
        beyond = f"{self.factor:.3g}x beyond the largest of {self.n_runs} runs' budgets"
        return f"What to train at {compact(self.budget_flops.value)} FLOPs ({self.question}), {beyond}"

    def main(self) -> dict[str, Estimate]:
        known = {"N*": self.n_params, "D*": self.n_tokens, self.metric: self.loss or self.optimum, **self.metrics}
        return known | (
            {f"{self.cost.device}-hours": self.cost.device_hours, "days": self.cost.days} if self.cost else {}
        )

    @property
    def train(self) -> str:
        """The model to train, in words."""
        m = self.model
        if m is None:
            return f"N = {count(self.trained)}, D = {count(self.trained_tokens)} tokens"
        text = f"{m.width}x{m.depth} (width x depth), N = {count(m.n_params)}, D = {count(m.n_tokens)} tokens, "
        text += (
            f"{count(m.n_images)} images in {m.steps} steps of {m.batch_size}, rate {spelled(m.lr)} by {m.lr_source}"
        )
        return text + (f", {m.passes:.3g} passes" if m.passes else "")

    @property
    def costs(self) -> str:
        """What it costs, in words; "" without a study."""
        c = self.cost
        if c is None:
            return ""
        hours, days = (f"{compact(e.value)} ({ends(e, compact, ' to ')})" for e in (c.device_hours, c.days))
        return f"{hours} {c.device}-hours, {days} days; speed: {'; '.join(c.sources)}"

    @property
    def numbers(self) -> list[tuple[str, Estimate, Callable[[float], str]]]:
        """(name, value, its form) of what the law says."""
        rows: list[tuple[str, Estimate, Callable[[float], str]]] = [("C", self.budget_flops, compact)]
        rows += [
            ("N*", self.n_params, count),
            ("D*", self.n_tokens, count),
            (at_optimum(self.metric), self.optimum, short),
        ]
        rows += [(f"{self.metric} of this size", self.loss, short)] if self.loss else []
        rows += [(f"{self.metric} of one new run at N*", self.one_run, short)] if self.one_run else []
        return rows + [(f"{name} at N*", e, short) for name, e in self.metrics.items()]

    @property
    def turns_on(self) -> str:
        """The change that would cost most, in a sentence."""
        # Another metric is a choice, and no doubt about this one.
        known = [c for c in self.changes if c.lost is not None and c.ratio is not None and c.loss is not None]
        noise = f"One run's own scatter is {100 * self.run_scatter:.2g} %." if self.run_scatter < 1 else ""
        if not known:
            return noise
        worst = max(known, key=lambda c: c.lost or 0.0)
        by = f"N* would be {worst.ratio:.3g}x, and this size would lose {100 * (worst.lost or 0):.2g} % of the budget"
        return f"The answer turns most on this: {worst.what}; {by}. {noise}".strip()

    @property
    def regrets(self) -> str:
        """What not knowing N* is expected to cost, in a sentence; "" where that is not known."""
        if self.regret is None:
            return ""
        excess = self.over_optimum or 0.0
        over = f"; its loss is {100 * excess:.2g} % over the optimum's" if excess >= 1e-5 else ""
        return f"{100 * self.regret:.2g} % of the budget is expected to be lost by this size, as N* is not known{over}."

    def summary(self) -> str:
        out = [self.heading(), *(f"  {k:<6} {v}" for k, v in (("train", self.train), ("costs", self.costs)) if v)]
        out += columns([[name, *cells(e, form)] for name, e, form in self.numbers])
        out += [f"  {self.regrets}"] if self.regrets else []
        rows = [["", "N*", "of the answer's", self.metric, "would lose"]] + [change_cells(c) for c in self.changes]
        out += ["What would change the answer", *columns(rows), f"  {self.turns_on}", f"  {self.add}"]
        return "\n".join([*out, *(f"  {note}" for note in self.notes)])


def change_cells(c: Change) -> list[str]:
    """A change as cells of a table."""
    ratio = "-" if c.ratio is None else f"{c.ratio:.3g}x"
    size, loss = ("-" if v is None else form(v) for v, form in ((c.n_params, count), (c.loss, short)))
    return [c.what, size, ratio, loss, "-" if c.lost is None else f"{100 * c.lost:.2g} %"]
