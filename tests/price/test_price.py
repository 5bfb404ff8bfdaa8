"""What a study costs, against sums made by hand, real files, and a record that was written by hand."""

import json
import math
from dataclasses import replace

import h5py
import pytest

from ditscale.config import Cluster, Size, compose
from ditscale.errors import UserError
from ditscale.launch.afford import check_budget, outlook
from ditscale.launch.monitor.status import study_status
from ditscale.naming import StudyPaths
from ditscale.pipeline import plan_study
from ditscale.plan.grid import plan_grid, plan_runs
from ditscale.plan.run import read_run
from ditscale.price.price import price, with_probe
from ditscale.price.records import read_speeds
from ditscale.price.resources import Machine, place_here
from ditscale.price.speed import Source, Speed, Speeds
from ditscale.price.spent import Spent, spent_on, total
from ditscale.price.storage import final_bytes, image_bytes, read_bytes, record_bytes, resume_bytes
from ditscale.rundir.record import Record

KNOWN = Speeds((Source("x", (Speed(10**5, "incontext", "fp32", "a CPU", 1e9, start_s=5.0),), 1.2),))


def study_of(*settings):
    study = compose(["study=mini", "~evaluation", *settings])
    return replace(study, validation=replace(study.validation, n=2, also={}))


def seconds(run, start_s=5.0):
    """At the one speed that KNOWN has at every size above 100k, and N^(1/3) below."""
    rate = 1e9 * min(1.0, (run.n_params_matmul / 1e5) ** (1 / 3))
    forward = run.flops_per_image / 3
    runs = 1 + len(run.readings)
    return start_s + (run.flops_per_image * (run.n_images + run.branch_images) + runs * 4 * forward) / rate


def test_local_hours_and_clock():
    study = study_of("cluster.threads=1")
    runs = plan_grid(study).runs
    found = price(runs, study, KNOWN, Machine(2))
    trained = [run for run in runs if not run.within]
    assert [p.run_id for p in found.runs] == [run.run_id for run in trained]
    for p, run in zip(found.runs, trained):
        assert p.total_s == pytest.approx(seconds(run)) and p.device_hours == pytest.approx(seconds(run) / 3600)
    order = sorted(map(seconds, trained), key=lambda s: -s)
    assert found.wall_s >= max(order[0], sum(order) / 2)
    assert found.wall_s <= 1.34 * max(order[0], sum(order) / 2) and found.device == "core"
    assert price(runs, study, KNOWN, Machine(1)).wall_s == pytest.approx(sum(order))
    assert price(runs, study, KNOWN, Machine(6)).wall_s == pytest.approx(order[0])


def test_nested_runs_cost_their_cool_down_and_measurement_alone():
    cooling = ("recipe.schedule=wsd", "recipe.decay=0.2")
    study, alone = study_of(*cooling), study_of(*cooling, "nested=false")
    nested, single = (price(plan_grid(s).runs, s, KNOWN, Machine(1)) for s in (study, alone))
    assert len(nested.runs) == 6 and len(single.runs) == 18
    flops = plan_grid(study).flops, plan_grid(alone).flops
    assert flops[0] < flops[1] and nested.device_hours < single.device_hours
    assert nested.disk_bytes == single.disk_bytes  # every run keeps its weights


SIZES = (Size(5e4, 1e9, gpus=1, pack=2), Size(1e6, 1e9, nodes=2, ranks=2, gpus=2))


def test_slurm_hours_clock_packs_and_requeues():
    study = replace(
        study_of("nested=false"), cluster=Cluster("slurm", sizes=SIZES, threads=1, max_time_h=1, signal_s=60)
    )
    runs = plan_grid(study).runs
    table = Speeds()  # the table's 1e9 at every size
    found = price(runs, study, table)
    assert found.device == "GPU"
    by_id = {p.run_id: p for p in found.runs}
    work = lambda run, ranks: (run.flops_per_image * run.n_images + 4 * run.flops_per_image / 3) / (1e9 * ranks)
    usable = 3600 - 60 - 60  # the limit, less the signal and the start that is assumed of a GPU
    for run in runs:
        small = run.n_params <= 5e4
        w = work(run, 1 if small else 4)
        executions = math.ceil(w / usable)
        assert by_id[run.run_id].executions == executions
        devices = 0.5 if small else 4
        assert by_id[run.run_id].device_hours == pytest.approx((w + executions * 60) * devices / 3600)
    packed = sorted((run for run in runs if run.n_params <= 5e4), key=lambda r: -r.n_images * r.flops_per_image)
    held = sum(by_id[r.run_id].total_s for r in packed[::2]) / 3600  # the longest of each pair holds the GPU
    rest = sum(by_id[r.run_id].device_hours for r in runs if r.n_params > 5e4)
    assert found.device_hours == pytest.approx(held + rest)
    assert found.wall_s == pytest.approx(max(p.total_s for p in found.runs))
    one = replace(study, cluster=replace(study.cluster, parallel=1, max_queued=6))
    assert price(runs, one, table).wall_s > 2 * found.wall_s
    few = replace(study, cluster=replace(study.cluster, max_queued=1))
    assert price(runs, few, table).wall_s == pytest.approx(sum(p.total_s for p in found.runs))


def test_money_and_energy():
    study = study_of("budget.usd_per_gpu_hour=2.5", "budget.watts=400")
    found = price(plan_grid(study).runs, study, KNOWN, Machine(2))
    assert found.usd == pytest.approx(2.5 * found.device_hours)
    assert found.energy_j == pytest.approx(400 * 3600 * found.device_hours)
    assert f"{found.usd:,.2f} USD" in found.summary()


def test_the_probe_stands_beside_the_grid():
    study = study_of()
    runs, guessed = with_probe(study, plan_runs(study).runs)
    assert guessed and runs[-1].role == "probe" and runs[-1].budget_flops == study.probe_budget
    assert with_probe(study, runs) == (runs, False)
    found = price(runs, study, KNOWN, Machine(2))
    assert [part.stage for part in found.parts] == ["grid", "probe"]
    assert place_here(runs[-1], study.cluster, Machine(2)).threads == 2
    assert place_here(replace(runs[-1], role="grid"), study.cluster, Machine(2)).threads == 1


def test_bytes_read(tmp_path):
    latents = ["study=paper", "data.path=none.h5", "validation.path=none.h5"]
    study = compose(latents)
    run = next(run for run in plan_grid(study).runs if not run.within)
    assert read_bytes(run) == run.n_images * 2 * (4 * 32 * 32 + 77 * 768)
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("latents", (2, 4, 32, 32), "f4")
        file.create_dataset("text", (2, 77, 768), "f2")
        stored = file["latents"].nbytes + file["text"].nbytes
    assert image_bytes(replace(study.data, path=str(path))) * 2 == stored
    assert read_bytes(plan_grid(compose(["study=mini"])).runs[0]) == 0


@pytest.mark.parametrize("state, lost_s", [("finished", 16.0), ("diverged", 60.0)])
def test_spent_and_lost(one_run, state, lost_s):
    """Two attempts of 40 and 20 seconds at 10 images a second, the second of which trains 160 images again."""
    run_dir = one_run()
    at = StudyPaths(run_dir.parent.parent).run(run_dir.name)
    run = read_run(at.run)
    at.attempts.mkdir()
    common = {"job": "", "restart": 0, "host": "here", "node": "", "pid": 1, "ranks": 2, "checkpoint": ""}
    second = {"started_unix": 1100.0, "before_unix": 1040.0, "lost_images": 160}
    for number, own in ((1, {"started_unix": 1000.0}), (2, second)):
        at.attempt(number).write_text(json.dumps({"number": number} | common | own))
    record = Record(at.metrics, "", run.steps, ["scenes"], run.validation.n)
    record.begin(1101.0, 160, 2, "here")
    record.measure({"images_per_s": 10.0, "data_wait_s": 6.0, "device": b"NVIDIA H200", "energy_j": 7.2e6})
    record.end(state, 1120.0)
    record.close()
    spent = spent_on(at, run, state)
    assert spent == Spent(60.0, lost_s, 6.0, 7.2e6, 2, True)
    found = total([spent, Spent(), Spent(30.0, devices=4, gpu=True)])
    assert found.hours == pytest.approx((60 * 2 + 30 * 4) / 3600) and found.device == "GPU"
    assert found.lost_hours == pytest.approx(lost_s * 2 / 3600) and found.wait_share == pytest.approx(12 / 240)
    assert "2 kWh" in str(found) and "5.0% waiting for data" in str(found) and not str(total([]))


@pytest.mark.slow
def test_files_of_a_real_study(tmp_path, ditscale, monkeypatch):
    """Weights, records, files and lost work of runs that were really trained; and what their records say of speed."""
    root = tmp_path / "s"
    tiny = ["study=mini", "budgets=[5e9,1e10]", "widths=[16,32]", "probe_budget=2e10", "recipe.min_steps=20",
            "recipe.ema_also=[0.05]", "evaluation={vlb: {n: 32}}", "validation.n=128"]  # fmt: skip
    assert ditscale("plan", root, *tiny).returncode == 0
    assert ditscale("launch", root, timeout=600).returncode == 0
    paths = StudyPaths(root)
    study, planned = plan_study(root)[1], plan_study(root)[1].runs
    for run in planned:
        at = paths.run(run.run_id)
        assert at.metrics.stat().st_size == pytest.approx(record_bytes(run), rel=0.1)
        assert (at.checkpoint / "final.pt").stat().st_size == pytest.approx(final_bytes(run), rel=0.35, abs=20_000)
    settings = compose(tiny)
    found = price(planned, settings, read_speeds(paths, settings.cluster), Machine(2))
    real = sum(1 + sum(1 for _ in paths.run(run.run_id).root.rglob("*")) for run in planned)
    assert found.part("grid").files == pytest.approx(real, rel=0.15)
    assert all("runs of this study" in source for source in found.sources)
    statuses = study_status(paths)
    spent = outlook(paths, settings, statuses).spent
    clock = sum(s.spent.seconds for s in statuses)
    assert spent.hours == pytest.approx(clock / 3600) and spent.lost_hours == 0
    # What the runs' own speeds give is what they took.
    assert found.device_hours == pytest.approx(spent.hours, rel=0.35)
    assert study.dropped == ()
    rows = json.loads(ditscale("status", root, "--json").stdout)
    assert sum(row["spent_s"] for row in rows) == pytest.approx(clock)


def test_a_checkpoint_to_resume_from(tmp_path):
    run = max(plan_grid(compose(["study=mini"])).runs, key=lambda run: run.n_params)
    torch = pytest.importorskip("torch")
    from ditscale.distributed.ranks import Ranks
    from ditscale.train.state import build

    ranks = Ranks(0, 1, torch.device("cpu"))
    state = build(run, ranks)
    checkpointer = state.checkpointer(tmp_path / "checkpoint", ranks)
    checkpointer.save(state.facts(run))
    checkpointer.wait()
    written = sum(path.stat().st_size for path in (tmp_path / "checkpoint").rglob("*") if path.is_file())
    assert written == pytest.approx(resume_bytes(run) / 3, rel=0.1)  # of three at most


def test_a_budget_refuses(tmp_path):
    paths, planned = plan_study(tmp_path / "s", ["study=mini", "budget.gpu_hours=0.001"])
    study = compose(["study=mini", "budget.gpu_hours=0.001"])
    with pytest.raises(UserError, match=r"budget.gpu_hours: 1e-3 core-hours, but this launch takes about") as refused:
        check_budget(paths, study)
    assert "\n" not in str(refused.value) and "budget.gpu_hours=" in str(refused.value).split("allow it with")[1]
    check_budget(paths, compose(["study=mini", "budget.gpu_hours=1e6"]))
    check_budget(paths, compose(["study=mini"]))
    grid = price(planned.runs, study, machine=Machine(2)).device_hours
    between = compose(["study=mini", f"budget.gpu_hours={1.2 * grid}"])
    check_budget(paths, between)
    with pytest.raises(UserError, match="its probe included"):
        check_budget(paths, between, probe=True)
