"""How early a probe's final loss is known and a broken run named, on the miniature.

    python tools/bench/early.py train OUT        # a grid, six probes, the broken ones; resumes; half an hour of CPU
    python tools/bench/early.py measure OUT [STUDY ...]    # STUDY: further finished studies to take as grids
    python tools/bench/early.py simulate [N]     # how often sound runs raise an alarm, on drawn curves

Every probe has seeds of its own, and is judged by each grid. A broken run is trained for BEGUN of its length.
docs/measured/early.md has what this gave."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ditscale.config import Study, compose, dump_yaml, plain
from ditscale.early.alarms import QUANTITIES, deviations
from ditscale.early.collapse import final_loss
from ditscale.early.curves import Curve, grid_curves, read_curve
from ditscale.laws import Table, predictor
from ditscale.naming import RunPaths, StudyPaths
from ditscale.plan.grid import plan_runs
from ditscale.plan.run import make_run, read_run
from ditscale.plan.study import plan_all, write_study
from ditscale.rundir.record import open_record, read_state, read_validation
from ditscale.train import loop

ROOT = Path(__file__).resolve().parents[2]
GRIDS = (1,)  # seeds
BUDGETS, PROBE, BEGUN = "[1e11,2e11,4e11]", 3.2e12, 0.12
PROBES = ((64, 11), (72, 12), (64, 13), (72, 14), (64, 15), (80, 16))  # (width, seed)
BROKEN = ((64, 21), (72, 22))
SHARES = (0.1, 0.25, 0.5)
Fault = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]  # of images, texts and their positions


def noise(images: Tensor, texts: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """5 % of the images are noise."""
    bad, drawn = index % 20 == 7, torch.Generator().manual_seed(int(index[0]))
    images = images.clone()
    images[bad] = torch.rand(images[bad].shape, generator=drawn) * 2 - 1
    return images, texts


def truncated(images: Tensor, texts: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """The lower half of 5 % of the images is grey, as of files that were cut off."""
    images = images.clone()
    images[index % 20 == 7, :, images.shape[2] // 2 :] = 0.0
    return images, texts


def shuffled(images: Tensor, texts: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """5 % of the images have another one's caption."""
    texts, bad = texts.clone(), torch.nonzero(index % 20 == 7)[:, 0]
    texts[bad] = texts[bad.roll(1)]
    return images, texts


def scaled(factor: float) -> Fault:
    return lambda images, texts, index: (images * factor, texts)


FAULTS: dict[str, Fault | None] = {
    "rate": None, "noise": noise, "truncated": truncated, "shuffled": shuffled, "scale1.5": scaled(1.5),
    "scale0.67": scaled(2 / 3),
}  # fmt: skip


def study_of(seed: int, *settings: str) -> Study:
    own = [f"seeds=[{seed}]", f"data.seed={seed}", f"budgets={BUDGETS}", f"probe_budget={PROBE:g}", *settings]
    study = compose(["study=mini", "~evaluation", *own])
    return replace(study, validation=replace(study.validation, also={}))


def train(out: Path) -> None:
    for seed in GRIDS:
        paths = StudyPaths(out / f"grid{seed}")
        if not paths.study.exists():
            study = study_of(seed)
            write_study(paths.root, study)
            plan_all(paths, plan_runs(study).runs, by="plan")
        for at in paths.run_dirs():
            if not read_run(at.run).within:
                _train(at)
    for fault in FAULTS:
        for width, seed in BROKEN:
            _probe(out, fault, width, seed, BEGUN * PROBE)
    for width, seed in PROBES:
        _probe(out, "ok", width, seed, PROBE)


def _probe(out: Path, fault: str, width: int, seed: int, budget: float) -> None:
    study = study_of(seed, *(["recipe.lr_scale=0.6"] if fault == "rate" else []))
    at = RunPaths(out / "probes" / fault / f"{width}-{seed}")
    if not at.run.exists():
        at.root.mkdir(parents=True)
        at.run.write_text(dump_yaml(plain(make_run(study, "probe", budget, width, seed))))
    _train(at, FAULTS.get(fault))


def _train(at: RunPaths, fault: Fault | None = None) -> None:
    """Train a run in this process, its training images through `fault`; the held-out ones stay as they are."""
    if read_state(at.metrics) == "finished":
        return
    sound = loop.open_source

    def opened(data):
        source = sound(data)
        read = source.read
        source.read = lambda index: fault(*read(index), index)  # type: ignore[misc,method-assign]
        return source

    loop.open_source = opened if fault else sound
    try:
        print(at.root, loop.train(at.root), flush=True)
    finally:
        loop.open_source = sound


def measure(out: Path, studies: list[Path]) -> None:
    probes = {at.name: _curve(at) for at in sorted((out / "probes" / "ok").iterdir()) if _curve(at)}
    broken = {f"{at.parent.name} {at.name}": _curve(at) for at in sorted((out / "probes").glob("*/*")) if _curve(at)}
    for root in [*(out / f"grid{seed}" for seed in GRIDS), *studies]:
        runs = {at.name: read_run(at.run) for at in StudyPaths(root).run_dirs()}
        ids = {name for name, run in runs.items() if run.role == "grid"}
        grid = [curve for curve in grid_curves(root, ids) if curve.readings]
        exponent = _exponent(root, ids)
        print(f"\n{root.name}: final loss, error in % [half the interval], from", *SHARES)
        for name, probe in probes.items():
            cells = []
            for share in SHARES:
                found = final_loss(grid, probe.until(share * probe.end), exponent)
                truth = probe.readings[-1][1]
                assert found and found[0].high
                error, half = (100 * (x / found[0].value - 1) for x in (truth, found[0].high))
                cells.append(f"{-error:+.1f} [{half:.1f}]{'' if found[0].covers(truth) else ' MISSED'}")
            print(f"  {name:<8}", "   ".join(cells))
        print(f"{root.name}: largest deviation in bands, and first alarm (quantity, share, images)")
        for name, run in broken.items():
            whole = run if name.startswith("ok") else replace(run, end=run.end / BEGUN)
            print(f"  {name:<16}", _watch(grid, whole))


def _watch(grid: list[Curve], run: Curve) -> str:
    """What someone who asks at every 4 % of growth sees."""
    largest, first = dict.fromkeys(QUANTITIES, 0.0), dict[str, str]()
    for share in np.exp(np.arange(np.log(0.008), 0, 0.04)):
        if share * run.end > 1.001 * run.last:
            break
        for quantity in QUANTITIES:
            for newest in deviations(grid, run.until(share * run.end), quantity)[-1:]:
                largest[quantity] = max(largest[quantity], abs(newest.ratio))
                if abs(newest.ratio) > 1:
                    first.setdefault(quantity, f"{quantity} {newest.deviation:+.0%} at {share:.1%}, {newest.images}")
    return "  ".join([*(f"{name} {value:.2f}" for name, value in largest.items()), *first.values()])


def _curve(at: Path) -> Curve | None:
    paths = RunPaths(at)
    if read_state(paths.metrics) != "finished":
        return None
    return read_curve(paths, read_run(paths.run))


def _exponent(root: Path, ids: set[str]):
    """The exponent of N*(C) by the grid's measured losses."""
    rows = []
    for name in sorted(ids):
        at = StudyPaths(root).run(name)
        run = read_run(at.run)
        with open_record(at.metrics) as file:
            losses = read_validation(file)["loss"]
        rows += [(run.n_params, run.n_tokens, run.budget_flops, float(losses[0]))] if len(losses) else []
    return predictor(Table.of(*zip(*rows, strict=True))).exponent("model", PROBE)


def simulate(n: int) -> None:
    """Sound runs beside sound grids, drawn as in tests/early, with more scatter than was measured. Each is asked at 3
    and at 20 % of its training, and looks back over all windows."""
    sys.path.insert(0, str(ROOT / "tests" / "early"))
    from early_synthetic import grid, probe

    largest = []
    for seed in range(n):
        rng = np.random.default_rng(seed)
        runs, run = grid(rng, scatter=0.025), probe(rng, scatter=0.025)
        seen = [d for s in (0.03, 0.2) for q in QUANTITIES for d in deviations(runs, run.until(s * run.end), q)]
        largest.append(max(abs(deviation.ratio) for deviation in seen))
    in_99 = np.quantile(largest, 0.99)
    print(f"{np.sum(np.array(largest) > 1)} of {n} sound runs raised an alarm; 99 % stay below {in_99:.2f} of the band")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["train", out]:
            train(Path(out))
        case ["measure", out, *studies]:
            measure(Path(out), [Path(study) for study in studies])
        case ["simulate", *n]:
            simulate(int(n[0]) if n else 400)
        case _:
            sys.exit(__doc__)
