"""The verbs on a person's own tables: fit, compare, forecast, verdict; and what each says to a table it cannot use."""

import json

import h5py
import numpy as np
import pytest

from ditscale.cli import main

E, A, B, ALPHA, BETA = 0.3, 50.0, 400.0, 0.4, 0.45
BUDGETS = (1e17, 3e17, 1e18, 3e18)
HEAD = "run_id,role,n_params,n_tokens,budget_flops,loss,loss_ood,loglik\n"


def best(budget):
    return (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA)) * (budget / 6) ** (BETA / (ALPHA + BETA))


def row(name, n, budget, role="grid", noise=1.0, scale=1.0):
    d = budget / 6 / n
    loss = float((E + scale * (A * n**-ALPHA + B * d**-BETA)) * noise)
    return f"{name},{role},{n!r},{d!r},{budget!r},{loss!r},{loss + 0.05!r},{-loss!r}\n"


def text(noise=0.002, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    cells = [(c, k) for c in BUDGETS for k in range(-4, 5)]
    return HEAD + "".join(
        row(
            f"c{c:g}k{k}".replace("+", ""),
            best(c) * 1.5**k,
            c,
            noise=np.exp(noise * rng.standard_normal()),
            scale=scale,
        )
        for c, k in cells
    )


@pytest.fixture
def runs(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(text())
    return path


@pytest.fixture
def call(capsys):
    """Run a verb in this process: (status, what it printed). A traceback would surface as the test's own."""

    def run(*words):
        status = main([str(w) for w in words])
        out, err = capsys.readouterr()
        if status not in (0, 3):
            assert out == "" and len(err.strip().splitlines()) == 1 and err.startswith("ditscale: error: "), (out, err)
        return status, out if status in (0, 3) else err

    return run


def one_object(out: str) -> dict:
    """stdout as exactly one JSON object, which holds no NaN."""

    def refuse(constant):
        raise AssertionError(constant)

    return json.loads(out, parse_constant=refuse)


# ---------------------------------------------------------------------------------------------------------------- fit


def test_fit_prints_one_object(runs, call):
    status, out = call("fit", runs, "--json", "--target", "1.5e21", "--bootstrap", "50")
    found = one_object(out)
    assert status == 0 and found["layout"] == 1 and found["n_runs"] == 36 and set(found["predictions"]) == {"1.5e21"}
    assert found["approach3"]["alpha"]["low"] <= ALPHA <= found["approach3"]["alpha"]["high"]


def test_fit_of_a_table_that_supports_no_law(tmp_path, call):
    path = tmp_path / "two.csv"
    for rows in (text().splitlines()[1:3], text().splitlines()[1:10]):  # two runs; one budget
        path.write_text(HEAD + "\n".join(rows))
        status, out = call("fit", path, "--json", "--bootstrap", "50")
        found = one_object(out)
        assert status == 3 and found["approach2"] is None and found["approach3"] is None
        assert any(f["severity"] == "refused" for f in found["findings"])


@pytest.mark.parametrize("flags", [
    ["--objective", "ls"], ["--objective", "ls_log"], ["--kappa", "6"], ["--metric", "loss_ood"],
], ids=" ".join)  # fmt: skip
def test_flags_of_fit(runs, call, flags):
    status, out = call("fit", runs, "--json", "--bootstrap", "60", "--target", "1e20", *flags)
    found = one_object(out)
    assert status == 0
    assert found["metric"] == (flags[1] if flags[0] == "--metric" else "loss")
    if flags[0] == "--objective":
        assert found["objective"] == flags[1]


def test_too_few_replicates_for_an_interval(runs, call):
    for n in ("1", "39"):
        assert (
            f"--bootstrap: {n} is too small for 95 % intervals; at least 40, or 0"
            in call("fit", runs, "--bootstrap", n)[1]
        )
    assert call("fit", runs, "--bootstrap", "0")[0] == call("fit", runs, "--bootstrap", "40")[0] == 0


def test_a_metric_that_is_higher_where_better_is_refused_not_raised(runs, call):
    status, out = call("fit", runs, "--json", "--bootstrap", "0", "--metric", "loglik")
    assert status == 3 and any(f["severity"] == "refused" for f in one_object(out)["findings"])


def test_runs_left_out_are_listed(runs, call):
    one = "c1e17k0"
    _, out = call("fit", runs, "--json", "--bootstrap", "0", "--exclude", f"{one}=loss spike = bad")
    found = one_object(out)
    assert found["exclusions"] == [{"run_id": one, "reason": "loss spike = bad"}] and found["n_runs"] == 35
    assert "there is no run 'c1e17k9'" in call("fit", runs, "--exclude", "c1e17k9=x")[1]
    assert "write it as in --exclude run-17=diverged" in call("fit", runs, "--exclude", one)[1]


def test_tables_with_other_names(runs, tmp_path, call):
    other = tmp_path / "other.csv"
    other.write_text(text().replace("n_params,n_tokens,budget_flops", "Model Size,tokens,Training FLOP"))
    status, err = call("fit", other)
    hint = "--columns 'n_params=Model Size,n_tokens=tokens,budget_flops=Training FLOP'"
    assert status == 2 and hint in err
    wanted = one_object(call("fit", runs, "--json", "--bootstrap", "0")[1])
    named = ["--columns", "n_params=Model Size,n_tokens=tokens", "--columns", "budget_flops=Training FLOP"]
    assert one_object(call("fit", other, "--json", "--bootstrap", "0", *named)[1])["approach3"] == wanted["approach3"]
    two = ["--columns", "n_params=Model Size,budget_flops=Training FLOP"]
    other.write_text(other.read_text().replace("tokens", "_"))
    assert "--kappa 6 computes n_tokens" in call("fit", other, *two)[1]
    found = one_object(call("fit", other, "--json", "--bootstrap", "0", "--kappa", "6", *two)[1])
    assert found["approach3"]["alpha"]["value"] == pytest.approx(wanted["approach3"]["alpha"]["value"], rel=1e-6)
    assert "n_params=size" in call("fit", other, "--columns", "n_params")[1]


BARE = "n_params,n_tokens,budget_flops,loss\n"
GOOD = "1e6,1e8,6e14,3.1\n2e6,5e7,6e14,3.0\n"


@pytest.mark.parametrize("content, says", [
    ("", "is empty"),
    (BARE, "no rows"),
    (GOOD, "numbers where the header is expected"),
    (BARE + GOOD + "4e6,2e7,6e14,nan\n", "column loss: nan is not finite; leave the run out with --exclude row-3=nan"),
    (BARE + GOOD + "0,2e7,6e14,3\n", "row 4, column n_params: 0 is not positive"),
    (BARE + GOOD + "4e6,-2e7,6e14,3\n", "row 4, column n_tokens: -2e+07 is not positive"),
    (BARE + GOOD + "4e6,2e7,inf,3\n", "row 4, column budget_flops: inf is not finite"),
    (BARE + GOOD + "4e6,2e7,6e14,\n", "row 4, column loss: the cell is empty"),
    (BARE + GOOD + '"4,000",2e7,6e14,3\n', "'4,000' is not a number; write 4000, or 4.000"),
    (BARE + GOOD + "big,2e7,6e14,3\n", "'big' is not a number"),
    (BARE + GOOD + "4e6,2e7,6e14\n", "row 4: 3 cells, but the header has 4 columns"),
    (BARE + GOOD + "4,000,000,2e7,6e14,3\n", "numbers take no thousands separators"),
    (BARE + GOOD + GOOD, "the same row appears twice (row 2 and row 4)"),
    ("run_id," + BARE + "a," + GOOD.replace("\n2", "\na,2"), "run_id 'a' appears twice"),
    (BARE.replace("loss", "Loss") + GOOD, "--columns loss=Loss"),
    (BARE.replace("n_tokens", "N_Tokens") + GOOD, "--columns n_tokens=N_Tokens"),
    (BARE.replace("budget_flops", "buget_flops") + GOOD, "--columns budget_flops=buget_flops"),
    ("a;b\n1;2\n", "there is no column 'n_params'"),
    ("role," + BARE + "train," + GOOD.replace("\n2", "\ntrain,2"), "'train' is not known; write grid, lever or probe"),
    ("role," + BARE + "probe," + GOOD.replace("\n2", "\nprobe,2"), "every run is a probe"),
    (b"\x89HDF\r\n\x1a\n" + b"broken" * 40, "damaged or truncated HDF5"),
    (bytes(range(256)), "neither CSV text (UTF-8) nor HDF5"),
], ids=lambda x: str(x)[:40] if isinstance(x, str) and " " in x else "")  # fmt: skip
def test_bad_tables_are_one_line(tmp_path, call, content, says):
    path = tmp_path / "bad.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for verb in (["fit"], ["forecast", "--budget", "1e20"]):
        status, err = call(verb[0], path, *verb[1:])
        assert status == 2 and str(path) in err and says in err
    assert "compare" not in call("compare", path, path)[1]
    assert [p.name for p in tmp_path.iterdir()] == ["bad.csv"]


def test_bad_places_are_one_line(tmp_path, call, runs):
    assert "no such file" in call("fit", tmp_path / "absent.csv")[1]
    (tmp_path / "empty").mkdir()
    assert "has no study.h5" in call("fit", tmp_path / "empty")[1]
    with h5py.File(tmp_path / "odd.h5", "w") as file:
        file["n_params"] = np.zeros((2, 2))
    assert "there is no column" in call("fit", tmp_path / "odd.h5")[1]
    for flags, says in (
        (["--target", "big"], "--target: 'big' is not a number"),
        (["--target", "-1"], "must be above 0"),
        (["--bootstrap", "many"], "--bootstrap"),
        (["--seed", "1.5"], "--seed: 1.5 is not a whole number"),
        (["--metric", "n_params"], "metric: n_params says what a run was"),
        (["--metric", "lss"], "there is no column 'lss'"),
        (["--kappa", "0"], "kappa"),
        (["--columns", "size=n_params"], "'size' is not a name of ours"),
    ):
        status, err = call("fit", runs, *flags)
        assert status == 2 and says in err


def test_the_shell_sees_one_line_and_a_status(tmp_path, ditscale, one_line_error, runs):
    (tmp_path / "bad.csv").write_text(BARE.replace("n_params", "params") + GOOD)
    assert "--columns n_params=params" in one_line_error(ditscale("fit", tmp_path / "bad.csv"))
    done = ditscale("fit", runs, "--json", "--bootstrap", "50")
    assert done.returncode == 0 and done.stdout.count("\n") == 1 and done.stderr == ""
    assert one_object(done.stdout)["n_runs"] == 36


# ------------------------------------------------------------------------------------------------------------ compare


def test_compare_of_named_tables(runs, tmp_path, call):
    (tmp_path / "good.csv").write_text(text(seed=1, scale=0.6))
    words = ["compare", f"plain={runs}", f"good={tmp_path / 'good.csv'}", "--target", "1e20"]
    status, out = call(*words, "--json")
    found = one_object(out)
    assert status == 0 and [found["pairs"][0][k] for k in "ab"] == ["plain", "good"] and found["metric"] == "loss"
    # 0.6 in both terms is the same loss with 0.6^(1/exponent) of the FLOPs, exponent alpha beta / (alpha + beta).
    times = 0.6 ** ((ALPHA + BETA) / (ALPHA * BETA))
    assert found["pairs"][0]["flop_multiplier"]["low"] < times < found["pairs"][0]["flop_multiplier"]["high"]
    assert "good is better than plain" in call(*words)[1]
    left = one_object(call(*words, "--json", "--exclude", "good:c1e17k0=spike", "--metric", "loss_ood")[1])
    assert left["metric"] == "loss_ood"
    assert "say of which table each run is, as in plain:run-17" in call(*words, "--exclude", "c1e17k0=spike")[1]
    assert "there is no run 'x'" in call(*words, "--exclude", "good:x=y")[1]
    assert "given twice" in call("compare", f"a={runs}", f"a={tmp_path / 'good.csv'}")[1]
    assert "name at least two" in call("compare", runs)[1]
    twice = one_object(call("compare", runs, runs, "--json")[1])
    assert [twice["pairs"][0][k] for k in "ab"] == [str(runs), f"{runs} (2)"]


def test_one_experiment_of_a_table_of_many(runs, tmp_path, call):
    both = tmp_path / "both.csv"
    lines = [
        f"{line},{name}" for name, scale in (("old", 1.0), ("new", 0.9)) for line in text(scale=scale).splitlines()[1:]
    ]
    both.write_text(HEAD.strip() + ",experiment\n" + "\n".join(lines))
    assert "appears twice" in call("fit", both)[1]
    found = one_object(call("fit", both, "--json", "--bootstrap", "0", "--only", "experiment=old")[1])
    assert found["approach3"] == one_object(call("fit", runs, "--json", "--bootstrap", "0")[1])["approach3"]
    words = [
        "compare",
        f"a={both}",
        f"b={both}",
        "--only",
        "a:experiment=old",
        "--only",
        "b:experiment=new",
    ]
    assert one_object(call(*words, "--json")[1])["pairs"][0]["loss_ratio"]["value"] < 1
    assert "its values are: new, old" in call("fit", both, "--only", "experiment=first")[1]
    assert "there is no column 'experimen'" in call("fit", both, "--only", "experimen=old")[1]


def test_compare_without_any_law(runs, tmp_path, call):
    short = tmp_path / "short.csv"
    short.write_text(HEAD + "\n".join(text().splitlines()[1:4]))
    status, out = call("compare", runs, short, "--json")
    assert status == 3 and one_object(out)["pairs"][0]["law"] is None


def test_compare_of_two_metrics(runs, tmp_path, call):
    status, out = call("compare", runs, "--against", "loss_ood", "--json")
    found = one_object(out)
    assert status == 0 and found["difference"]["mean"]["value"] == pytest.approx(0.05, rel=1e-6)
    assert found["difference"]["slope"]["value"] == pytest.approx(0, abs=1e-9) and found["difference"]["p"] > 0.05
    assert "no change of this gap with C is seen" in call("compare", runs, "--against", "loss_ood")[1]
    assert "there is no column 'loss_od'" in call("compare", runs, "--against", "loss_od")[1]
    assert "name one table" in call("compare", runs, runs, "--against", "loss_ood")[1]
    short = tmp_path / "short.csv"
    short.write_text(HEAD + "\n".join(text().splitlines()[1:4]))
    assert main(["compare", str(short), "--against", "loss_ood"]) == 3


# ------------------------------------------------------------------------------------------------- forecast and verdict


def test_forecast_and_verdict_with_a_csv_alone(runs, tmp_path, call):
    status, out = call("forecast", runs, "--budget", "3e19")
    assert status == 0 and "Forecast for 3e19" in out and f"`ditscale verdict {runs}`" in out
    sealed = one_object((tmp_path / "forecast.json").read_text())
    assert call("forecast", runs, "--budget", "3e19", "--json")[0] == 0  # the same again is the same file
    assert one_object((tmp_path / "forecast.json").read_text()) == sealed
    assert "never overwritten" in call("forecast", runs, "--budget", "5e19")[1]
    other = tmp_path / "other.json"
    assert (
        one_object(call("forecast", runs, "--budget", "5e19", "--out", other, "--json")[1])["target_budget_flops"]
        == 5e19
    )
    assert "no run has role probe" in call("verdict", runs)[1]
    runs.write_text(text() + row("big", best(3e19), 3e19, "probe"))
    status, out = call("verdict", runs, "--json")
    found = one_object(out)
    assert status == 0 and found["inside"] and found["inputs_unchanged"] and found["run_id"] == "big"
    assert "The forecast held" in call("verdict", runs)[1]
    assert "more than 1 % off" in call("verdict", runs, "--forecast", other, "--run", "big")[1]
    assert "measured already" in call("forecast", runs, "--budget", "3e19", "--out", tmp_path / "late.json")[1]
    # Without roles the run at the target is the probe; a forecast made with it in the table is refused.
    runs.write_text(text() + row("big", best(3e19), 3e19))
    assert one_object(call("verdict", runs, "--json")[1]) == found
    assert (
        "already lies at the target" in call("forecast", runs, "--budget", "3e19", "--out", tmp_path / "late.json")[1]
    )
    (tmp_path / "forecast.json").write_text(json.dumps(sealed | {"law": "surface "}))
    assert "altered" in call("verdict", runs)[1]


def test_forecast_of_another_metric_and_other_names(runs, tmp_path, call):
    runs.write_text(text().replace("n_params", "size"))
    words = ["--columns", "n_params=size"]
    assert call("forecast", runs, "--budget", "3e19", "--metric", "loss_ood", *words)[0] == 0
    runs.write_text(text().replace("n_params", "size") + row("big", best(3e19), 3e19, "probe"))
    found = one_object(call("verdict", runs, "--json", *words)[1])
    assert found["metric"] == "loss_ood" and found["inside"]


def test_forecasts_that_cannot_be_made(runs, tmp_path, call):
    assert "name the budget" in call("forecast", runs)[1]
    assert "'much' is not a number" in call("forecast", runs, "--budget", "much")[1]
    assert "no such file" in call("forecast", tmp_path / "absent.csv", "--budget", "1e20")[1]
    assert "no such file; `ditscale forecast TABLE" in call("verdict", runs)[1]
    assert "cannot be written" in call("forecast", runs, "--budget", "1e20", "--out", tmp_path / "no" / "f.json")[1]
    assert "--metric is for tables" in call("forecast", tmp_path / "study", "--metric", "fid")[1]
    assert f"{tmp_path / 'study'}: holds no study.yaml" in call("verdict", tmp_path / "study")[1]
    assert "not above the largest budget" in call("forecast", runs, "--budget", "2e18")[1]
    short = tmp_path / "short.csv"
    short.write_text(HEAD + "\n".join(text().splitlines()[1:4]))
    assert main(["forecast", str(short), "--budget", "1e20"]) == 3
    assert not list(tmp_path.glob("*.json"))
