"""What the predictor takes from a table: which runs, on what scale, and what they may share."""

import math
from dataclasses import dataclass, replace

import numpy as np

from ...tables.table import Table, neighbours, slice_labels

NEAR = 0.3  # runs this far (in log loss) above their slice's best, and nearer, take part
SCATTERS = 6.0  # ... or this many times one run's scatter, where that is more
NEAR_SIZES = math.log(8)  # of a metric of either sign: runs within this of their slice's vertex in ln N
LEAST = 4  # of runs that a slice keeps, where it has them
NODE = 0.7  # least distance in ln C of the walks' nodes where budgets are a continuum
MOST_NODES = 16
MOST_ROWS, CELLS = 1500, 600  # more runs than these are averaged, in about so many cells
RANGE = 0.25  # a metric of either sign is scaled so that its best values span this over the budgets


@dataclass(frozen=True)
class Runs:
    """The runs a predictor is fitted to. x, z (n,): ln C and ln N less their means x0, z0; y (n,): (the metric's ln, or
    itself where it may have either sign (`log` False) and negated where higher is better, less shift) / scale; se (n,):
    its standard error; count (n,): runs a row stands for; slices (n,): labels; nodes (n,), node_x (k,); groups {name:
    labels (n,)}; isoflop: whether budgets are slices; kappa: C / (N D); rows (n,): of the table, that take part."""

    x: np.ndarray
    z: np.ndarray
    y: np.ndarray
    se: np.ndarray
    count: np.ndarray
    slices: np.ndarray
    nodes: np.ndarray
    node_x: np.ndarray
    groups: dict[str, np.ndarray]
    isoflop: bool
    log: bool
    sign: float
    shift: float
    scale: float
    x0: float
    z0: float
    kappa: float
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.x)

    def on_scale(self, value: np.ndarray, gradient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """On the scale of y, what the form gives (...) and its gradient (..., k)."""
        return (np.log(value), gradient / value[..., None]) if self.log else (value, gradient)

    def metric(self, y: float) -> float:
        """The metric itself from y."""
        y = self.shift + self.scale * y
        return math.exp(y) if self.log else self.sign * y

    def inverse(self, metric: float) -> float:
        """y from the metric."""
        return ((math.log(metric) if self.log else self.sign * metric) - self.shift) / self.scale


def runs_of(table: Table) -> Runs:
    """The runs of `table`, grid runs alone. The errors of a loss or a FID are relative, those of any other metric
    absolute: it may have either sign."""
    sign = table.sign
    log = sign > 0 and table.info_of(table.metric).positive
    x, z, raw = np.log(table.budget_flops), np.log(table.n_params), sign * table.loss
    y, slices, isoflop = np.log(raw) if log else raw, slice_labels(table), table.is_isoflop()
    se = np.zeros(len(x)) if table.loss_se is None else np.nan_to_num(table.loss_se, nan=0.0, posinf=0.0)
    se = np.maximum(se / raw if log else se, 0.0)
    groups = group_labels(table, slices) | ({"slice": slices} if isoflop else {})
    nodes = slices if isoflop else _nodes(x)
    keep = _near(x, z, y, nodes, log)
    shift, scale = float(np.median(y[keep])), 1.0
    if not log:
        best = np.array([y[keep & (nodes == node)].min() for node in np.unique(nodes[keep])])
        shift, scale = float(y[keep].min()), float(np.ptp(best) or np.ptp(y[keep]) or 1.0) / RANGE
    y, se = (y - shift) / scale, se / scale
    groups = {name: as_labels(labels[keep]) for name, labels in groups.items()}
    x, z, y, se, slices, nodes = (part[keep] for part in (x, z, y, se, slices, nodes))
    out = Runs(
        x, z, y, se, np.ones(len(x)), slices, nodes, np.zeros(0), groups, isoflop, log, sign, shift, scale, 0.0, 0.0,
        table.kappa(), np.flatnonzero(keep),
    )  # fmt: skip
    out = _averaged(out)
    x0, z0, nodes = float(out.x.mean()), float(out.z.mean()), as_labels(out.nodes)
    x = out.x - x0
    node_x = np.bincount(nodes, x) / np.bincount(nodes)
    return replace(out, x=x, z=out.z - z0, x0=x0, z0=z0, nodes=nodes, node_x=node_x, slices=as_labels(out.slices))


def group_labels(table: Table, slices: np.ndarray) -> dict[str, np.ndarray]:
    """{part of `errors.SCALES`: labels (n,)} of what runs share beside their slice: a training, as the table records
    it or as size and seed tell it; the seed of their data; and a size that most runs share with another slice."""
    size, known = as_labels(np.round(np.log(table.n_params), 6)), {n: as_labels(v) for n, v in table.shared.items()}
    groups = {"size": size}
    if "seed" in known:  # Runs of one size and seed begin alike, whether or not one training went through them all.
        groups["trajectory"] = as_labels(size * (1 + len(table)) + known["seed"])
    if "trajectory" in known and _across(known["trajectory"], slices):
        groups["trajectory"] = known["trajectory"]
    groups = {name: labels for name, labels in groups.items() if _across(labels, slices)}
    if "trajectory" in groups and _same(groups["trajectory"], size):
        groups.pop("trajectory")  # One seed: what a size and what a training has in common are one.
    # What an order of the data does to all sizes of a slice, they share.
    order = known.get("data_seed", known.get("seed", size * 0))
    if order.max() > 0:
        groups["shared"] = as_labels(slices * (1 + len(table)) + order)
    return groups


def _across(labels: np.ndarray, slices: np.ndarray) -> bool:
    """Whether most runs share their label with a run of another slice: then what one label has in common is seen."""
    budgets = np.bincount(np.unique(np.stack([labels, slices]), axis=1)[0])
    return bool((budgets[labels] > 1).mean() > 0.5)


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two labellings part the runs alike."""
    return len(np.unique(np.stack([a, b]), axis=1).T) == a.max() + 1 == b.max() + 1


def as_labels(values: np.ndarray) -> np.ndarray:
    """Equal values as equal whole numbers from 0, (n,)."""
    return np.unique(values, return_inverse=True)[1]


def _nodes(x: np.ndarray) -> np.ndarray:
    """Pieces of a continuum of budgets, at least NODE wide."""
    span = float(np.ptp(x))
    pieces = int(np.clip(span / NODE, 1, MOST_NODES))
    return np.minimum(((x - x.min()) / (span or 1.0) * pieces).astype(int), pieces - 1)


def _near(x: np.ndarray, z: np.ndarray, y: np.ndarray, nodes: np.ndarray, log: bool) -> np.ndarray:
    """Which runs are near their slice's optimum: farther ones say more of the form's tails than of the frontier."""
    keep, scatter = np.zeros(len(y), dtype=bool), _scatter(z, y, nodes)
    for node in np.unique(nodes):
        rows = np.flatnonzero(nodes == node)
        best = rows[np.argsort(y[rows], kind="stable")]
        if log:
            near = y[rows] <= y[best[0]] + max(math.log1p(NEAR), SCATTERS * scatter)
        else:
            near = np.abs(z[rows] - np.median(z[best[: max(3, len(rows) // 4)]])) <= NEAR_SIZES
        keep[rows[near]] = True
        keep[[i for i in best[:LEAST] if not log or y[i] <= y[best[0]] + 3 * math.log1p(NEAR)]] = True
    return keep


def _scatter(z: np.ndarray, y: np.ndarray, nodes: np.ndarray) -> float:
    """A run's typical distance from the parabola through its slice, by the median; 0 where no slice has 5 runs."""
    off = []
    for node in np.unique(nodes):
        u, v = (part[nodes == node] for part in (z, y))
        if len(np.unique(np.round(u, 6))) >= 5 and np.ptp(u) > 0.1:
            rest = v - np.polyval(np.polyfit(u - u.mean(), v, 2), u - u.mean())
            off.append(np.median(np.abs(rest)) * math.sqrt(len(u) / (len(u) - 3)))
    return 1.4826 * float(np.median(off)) if off else 0.0


def _averaged(runs: Runs) -> Runs:
    """The runs or, of more than MOST_ROWS, about CELLS rows: runs of one node, nearly one budget and nearly one size
    become their mean."""
    if len(runs) <= MOST_ROWS:
        return runs
    pieces = runs.nodes if runs.isoflop else neighbours(runs.nodes, runs.x, 4 * (runs.nodes.max() + 1), 4)
    key = neighbours(pieces, runs.z, CELLS)
    _, first, total = np.unique(key, return_index=True, return_counts=True)
    x, z, y, square = (np.bincount(key, values) / total for values in (runs.x, runs.z, runs.y, runs.se**2))
    groups = {name: labels[first] for name, labels in runs.groups.items() if name == "slice"}
    return replace(
        runs, x=x, z=z, y=y, se=np.sqrt(square / total), count=total.astype(float), slices=runs.slices[first],
        nodes=runs.nodes[first], groups=groups, rows=runs.rows[first],
    )  # fmt: skip
