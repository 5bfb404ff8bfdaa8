import pytest

from ditscale.config import Cluster, Size, build, compose
from ditscale.errors import UserError
from ditscale.plan.grid import plan_grid
from ditscale.price.resources import classes, resources
from ditscale.price.schedule import shares

SIZES = (Size(3e4, 1e9), Size(1e6, 1e9, nodes=2, ranks=2))


@pytest.fixture(scope="module")
def runs():
    return plan_grid(compose(["study=mini"])).runs


def test_a_run_takes_the_first_row_that_holds_it(runs):
    cluster = Cluster("slurm", sizes=SIZES, margin=2.0)
    for run in runs:
        found = resources(run, cluster)
        assert found.ranks == (1 if run.n_params <= 3e4 else 4)
        seconds = run.n_images * run.flops_per_image / (found.ranks * 1e9)
        assert found.minutes * 60 >= 2 * seconds + 300 and found.minutes % 15 == 0
    grouped = classes(runs, cluster)
    assert sorted(r.run_id for some in grouped.values() for r in some) == sorted(r.run_id for r in runs)
    assert all(resources(run, cluster) == what for what, some in grouped.items() for run in some)


def test_a_host_gets_time_for_the_runs_that_branch_off_it():
    cooling = [
        "study=mini",
        "~evaluation",
        "budgets=[2e11,4e11]",
        "widths=[48]",
        "recipe.schedule=wsd",
        "recipe.decay=1",
    ]
    alone, host = (plan_grid(compose([*cooling, f"nested={nested}"])).runs[1] for nested in ("false", "true"))
    assert host.readings and not alone.readings
    # 1.1, 1.4, 1.7 and 2.2 h, and a start
    for run, margin, hours in ((alone, 1.0, 2), (alone, 1.3, 2), (host, 1.0, 2), (host, 1.3, 4)):
        assert resources(run, Cluster("slurm", sizes=(Size(1e9, 1e8),), margin=margin)).minutes == 60 * hours


def test_a_long_run_gets_the_longest_time_there_is(runs):
    assert resources(runs[0], Cluster("slurm", sizes=(Size(1e9, 1e3),), max_time_h=7)).minutes == 7 * 60


def test_refusals(runs):
    with pytest.raises(UserError, match="cluster.sizes ends at 10"):
        resources(runs[0], Cluster("slurm", sizes=(Size(10, 1e9),)))
    with pytest.raises(UserError, match="does not divide over the 3 ranks"):
        resources(runs[0], Cluster("slurm", sizes=(Size(1e9, 1e9, ranks=3),)))
    with pytest.raises(UserError, match="pack: runs that share a job have one rank each"):
        build(Cluster, {"sizes": [{"up_to_params": 1, "flops_per_s": 1, "ranks": 2, "pack": 2}]}, "cluster")
    with pytest.raises(UserError, match="sizes: missing"):
        build(Cluster, {"name": "slurm"}, "cluster")
    with pytest.raises(UserError, match="must rise"):
        build(
            Cluster,
            {"sizes": [{"up_to_params": 2, "flops_per_s": 1}, {"up_to_params": 1, "flops_per_s": 1}]},
            "cluster",
        )
    with pytest.raises(UserError, match="gpu_option.*gpus-per-node, gres"):
        build(Cluster, {"gpu_option": "gpus"}, "cluster")


@pytest.mark.parametrize(
    "total, counts, expected",
    [
        (0, [5, 5], [0, 0]),
        (10, [5, 5], [5, 5]),
        (4, [6, 2], [3, 1]),
        (5, [6, 2], [4, 1]),
        (1, [3, 3], [1, 1]),
        (100, [3, 2], [3, 2]),
        (7, [1, 1, 50], [1, 1, 5]),
    ],
)
def test_shares_of_what_may_run_at_once(total, counts, expected):
    assert shares(total, counts) == expected
