"""Results read back from their JSON: equal to what was written, also from files of before, and no traceback from a
damaged one."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
from laws_synthetic import CHINCHILLA, loss_of, study

from ditscale.errors import UserError
from ditscale.laws import (
    Comparison,
    Estimate,
    Gap,
    Laws,
    RateLaw,
    Table,
    Trend,
    Verdict,
    compare,
    fit,
    fit_gap,
    fit_trend,
    load_forecast,
    read_laws,
    read_rates,
    read_verdict,
)  # fmt: skip

OLD = Path(__file__).parent / "old_layout"  # written by the code of commit 13e51be
SIX = tuple(np.geomspace(1e18, 1e20, 6))
READERS = {
    "laws.json": (Laws, read_laws), "laws_refused.json": (Laws, read_laws), "verdict.json": (Verdict, read_verdict),
    "rates.json": (RateLaw, read_rates), "rates_refused.json": (RateLaw, read_rates),
}  # fmt: skip


def body_of(name):
    return json.loads((OLD / name).read_text())


def through_json(result):
    return json.loads(json.dumps(result.to_dict(), allow_nan=False))


def with_keys(new, old):
    """`new` less the keys that are null in it and absent from `old`: an optional number that older files leave out."""
    if isinstance(old, dict):
        return {k: with_keys(v, old[k]) for k, v in new.items() if k in old or v is not None}
    return [with_keys(n, o) for n, o in zip(new, old, strict=True)] if isinstance(old, list) else new


# What older files said beside: delta-method intervals, how a bootstrap was drawn, its ends, and forms of L*(C).
GONE = ("delta", "interval", "loss_law", "loss_with_floor", "resample")


def without(part, keys):
    if isinstance(part, dict):
        part = {k: v for k, v in part.items() if not (k.startswith("approach") and isinstance(v, str))}
        return {k: without(v, keys) for k, v in part.items() if k not in keys}
    return [without(v, keys) for v in part] if isinstance(part, list) else part


@pytest.mark.parametrize("name", READERS)
def test_files_of_before_are_read_with_every_number_and_key(name):
    kind, read = READERS[name]
    result, body = read(OLD / name), body_of(name)
    body = without(body, GONE) if kind in (Laws, RateLaw) else body
    assert isinstance(result, kind) and with_keys(result.to_dict(), body) == body
    assert result.summary()


def test_a_forecast_sealed_before_still_has_its_hash():
    assert load_forecast(OLD / "forecast.json").to_dict() == body_of("forecast.json")


def test_numbers_of_a_file_of_before_are_attributes():
    laws, body = read_laws(OLD / "laws.json"), body_of("laws.json")
    assert laws.approach2.model_exponent == Estimate(**body["approach2"]["model_exponent"])
    assert laws.slices[1].n_range == tuple(body["slices"][1]["n_params_within_0.1_percent"])
    assert laws.predictions["8e18"].approach3.loss.value == body["predictions"]["8e18"]["approach3"]["loss"]["value"]
    assert laws.fits is None
    assert [p.run_id for p in laws.points] == [p["run_id"] for p in body["points"]] and laws.given
    assert (
        laws.predictions["8e18"]["approach3"]["loss"]["value"]
        == body["predictions"]["8e18"]["approach3"]["loss"]["value"]
    )
    with pytest.raises(KeyError, match="'answr' is none of approach2, approach3, answer"):
        laws.predictions["8e18"]["answr"]
    assert not read_laws(OLD / "laws_refused.json").given
    rates = read_rates(OLD / "rates.json")
    assert rates.rate_at(4e6, 1e9) == pytest.approx(
        rates.scale.value * 4e6**rates.params.value * 1e9**rates.tokens.value
    )
    assert read_verdict(OLD / "verdict.json").by_law[0].law == "surface"


def test_a_fresh_result_equals_what_is_read_back():
    table = study(CHINCHILLA, SIX, sizes=9, noise=0.003)
    laws = fit(table, targets=["1.5e21", 3e20], bootstrap=60)
    assert Laws.from_dict(through_json(laws)) == laws
    assert Laws.from_dict(through_json(laws)).summary() == laws.summary()
    found = compare({"a": table, "b": study(CHINCHILLA, SIX, sizes=9, noise=0.003, seed=1)}, 1e21)
    assert Comparison.from_dict(through_json(found)) == found
    other = loss_of(CHINCHILLA, table.n_params, table.n_tokens) + 0.1
    columns = (table.n_params, table.n_tokens, table.budget_flops, table.loss)
    both = Table.of(*columns, columns={"loss_coco": other})
    for kind, result in ((Gap, fit_gap(both, "loss_coco")), (Trend, fit_trend(both, "loss_coco"))):
        assert kind.from_dict(through_json(result)) == result
    with pytest.raises(UserError, match="read from a file"):
        Trend.from_dict(through_json(fit_trend(both, "loss_coco"))).predict(1e21)


def places(part, at=()):
    """The path to every value of a JSON object."""
    yield from ((at,) if at else ())
    for k, v in part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ():
        yield from places(v, (*at, k))


WRONG = (None, True, -1, 0, 3.5, math.nan, math.inf, 10**400, "", "text", [], [1], [[]], {}, {"value": 1.0}, [{}])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_one_line_or_still_a_result(name, tmp_path):
    kind, read = READERS[name]
    body, rng, refused = body_of(name), np.random.default_rng(0), 0
    every = list(places(body))
    for at in (every[i] for i in rng.permutation(len(every))[:400]):
        damaged = copy.deepcopy(body)
        part = damaged
        for step in at[:-1]:
            part = part[step]
        if rng.random() < 0.3:
            del part[at[-1]]
        else:
            part[at[-1]] = WRONG[rng.integers(len(WRONG))]
        try:
            kind.from_dict(damaged).summary()
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 300
            refused += 1
    assert refused > min(400, len(every)) / 3
    for text in ("", "[]", "null", "3", "{}", "[" * 100_000, '{"layout": 7}', "\0"):
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=name):
            read(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda b: b.pop("kappa"), "'kappa'"),
        (lambda b: b["slices"][1].update(loss="low"), r"slices\[1\]\.loss: 'low' is not a finite number"),
        (lambda b: b["approach2"]["model_exponent"].update(value=math.nan), "approach2.model_exponent.value: nan"),
        (lambda b: b.update(points={}), r"points: \{\} is not a list"),
        (lambda b: b["findings"][0].update(severity="<script>"), "findings.*severity.*is not one of refused"),
        (lambda b: b["slices"][0].update(n_params=None), r"slices\[0\]: status is ok, but there is no minimum"),
        (lambda b: b["bands"]["loss"].pop(), "bands: its lists differ in length"),
        (lambda b: b["slices"].clear(), "approach2 stands without its slices"),
        (lambda b: b.update(layout=2), "layout 2 is not 1"),
    ],
)
def test_the_message_names_the_key(change, says):
    body = body_of("laws.json")
    change(body)
    with pytest.raises(UserError, match=says):
        Laws.from_dict(body)


def test_a_missing_file_says_what_makes_it(tmp_path):
    with pytest.raises(UserError, match="verdict.json: no such file; `ditscale verdict"):
        read_verdict(tmp_path / "verdict.json")
