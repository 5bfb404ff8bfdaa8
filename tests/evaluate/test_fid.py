"""FID for real: our extractor trained by its recipe, torch-fidelity's own numbers, and a trained run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from ditscale.cli import main
from ditscale.config import Evaluation, compose
from ditscale.data.source import open_source
from ditscale.distributed.ranks import Ranks
from ditscale.evaluate import fid, frechet
from ditscale.evaluate.decoder import as_bytes
from ditscale.evaluate.extractor import CaptionReader, caption_reader, load_extractor, torch_fidelity
from ditscale.rundir.evaluation import read_results

ROOT = Path(__file__).resolve().parents[2]
ONE = Ranks(0, 1, torch.device("cpu"))


class Pictures(Dataset):
    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i]


def registered(reader):
    """Our reader as an extractor of torch-fidelity, which finds it by name."""
    torch_fidelity()
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY
    from torch_fidelity.utils import create_feature_extractor

    class Reader(FeatureExtractorBase):
        get_provided_features_list = staticmethod(lambda: ("64",))
        get_default_feature_layer_for_metric = staticmethod(lambda metric: "64")
        can_be_compiled = staticmethod(lambda: False)

        def __init__(self, name, features_list, **options):
            super().__init__(name, features_list)
            self.reader = reader

        def forward(self, x):
            return (self.reader(x),)

    FEATURE_EXTRACTORS_REGISTRY["caption-reader"] = Reader
    return create_feature_extractor("caption-reader", ["64"], cuda=False, verbose=False)


@pytest.mark.slow
def test_the_same_numbers_as_torch_fidelity():
    """Random pictures through one extractor: FID, KID, precision and recall, end to end by its calculate_metrics."""
    g = torch.Generator().manual_seed(0)
    a, b = ((torch.randn(600, 3, 12, 12, generator=g) * s + m).clamp(0, 255).byte() for s, m in ((40, 128), (50, 120)))
    reader = CaptionReader(3, 7, 34).eval()
    theirs = registered(reader)
    features = [theirs(x)[0].detach().numpy() for x in (a, b)]
    said = torch_fidelity().calculate_metrics(
        input1=Pictures(a), input2=Pictures(b), cuda=False, fid=True, kid=True, prc=True,
        feature_extractor="caption-reader",
        kid_subset_size=300, save_cpu_ram=True, cache=False, verbose=False,
    )  # fmt: skip
    ours = fid.kid_and_recall(*features)
    assert frechet.distance(*features) == pytest.approx(said["frechet_inception_distance"], abs=1e-6)
    assert ours["kid"][0] == pytest.approx(said["kernel_inception_distance_mean"], abs=1e-6)
    assert ours["kid"][1] == pytest.approx(said["kernel_inception_distance_std"], rel=0.01) and ours["kid"][1] > 0
    assert (ours["precision"], ours["recall"]) == (said["precision"], said["recall"])


@pytest.mark.slow
def test_the_reader_reads(cache):
    """Trained by the recipe, on pictures it has not seen: the ground always, colours and places several times as often
    as by chance (1/7 and 1/9), shapes twice (1/16; two icons of a few pixels that cover each other). Then cached."""
    data = compose(["study=mini"]).data
    reader, name = caption_reader(data, ONE)
    x, text = open_source(data).batch(torch.arange(1000))
    right = (reader.logits(as_bytes(x)).argmax(-1) == text).float().mean(0)
    assert right[6] > 0.97 and right[[0, 3, 2, 5]].min() > 0.38 and right[[1, 4]].min() > 0.11
    (path,) = cache.glob("caption-reader-*.pt")
    before = path.stat().st_mtime_ns
    again, same = caption_reader(data, ONE)
    assert same == name and path.stat().st_mtime_ns == before
    assert torch.equal(again(as_bytes(x[:9])), reader(as_bytes(x[:9])))


@pytest.mark.slow
def test_fid_of_a_trained_run(study, cache, capsys):
    run_dir = sorted(study.glob("runs/*"))[1]
    words = [
        "evaluate",
        str(run_dir),
        "--metrics",
        "fid",
        "--dataset",
        "scenes",
        "--n",
        "255",
        "--steps",
        "4",
        "--samples",
        "0",
    ]
    assert main(words) == 2 and "too few" in capsys.readouterr().err
    assert main([*words[:-5], "3", "--few"]) == 2 and "--n: 3 images give no FID; use 2048" in capsys.readouterr().err
    found, before = {}, set(cache.glob("reference-*.npz"))
    for sampler in ("euler", "heun"):
        assert main([*words, "--few", "--sampler", sampler]) == 0
        (found[sampler],) = [
            r for r in read_results(run_dir / "evaluation.h5") if r.metric == "fid" and r.settings["sampler"] == sampler
        ]
    heun = found["heun"]
    assert heun.n == 255 and heun.evaluations == 7 and found["euler"].evaluations == 4
    assert heun.settings["extractor"].startswith("caption-reader ") and heun.settings["steps"] == 4
    assert 0 < heun.se < heun.value and heun.value != found["euler"].value
    assert heun.arrays["half"][0] > heun.value > heun.arrays["extrapolated"][0]
    assert 0 <= heun.arrays["precision"] <= 1 and 0 <= heun.arrays["recall"] <= 1
    (reference,) = set(cache.glob("reference-*.npz")) - before  # both samplers were held against the same features
    noise = np.load(reference)["features"]
    assert frechet.distance(noise, noise) == pytest.approx(0, abs=1e-4)


@pytest.mark.slow
def test_two_ranks_give_the_same_numbers(study, ditscale, tmp_path):
    """Images and features are shared out; what they come to is one process's, and so are the samples to look at."""
    alone, together = (
        shutil.copytree(sorted(study.glob("runs/*"))[0], tmp_path / name) for name in ("alone", "together")
    )
    for copy in (alone, together):
        (copy / "evaluation.h5").unlink(missing_ok=True)
    words = [
        "--metrics",
        "fid",
        "--dataset",
        "ood",
        "--images",
        "130",
        "--few",
        "--steps",
        "2",
        "--samples",
        "3",
        "--batch-size",
        "32",
    ]
    assert ditscale("evaluate", alone, *words).returncode == 0
    two = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "ditscale",
        "evaluate",
        str(together),
        *words,
    ]
    # theirs is made anew
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "DITSCALE_CACHE": str(tmp_path / "cache"),
    }
    shutil.copytree(os.environ["DITSCALE_CACHE"], tmp_path / "cache", ignore=shutil.ignore_patterns("reference-*"))
    done = subprocess.run(two, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.count("fid") == 1, done.stdout + done.stderr
    (a,), (b,) = (read_results(copy / "evaluation.h5") for copy in (alone, together))
    assert (
        b.value == pytest.approx(a.value, rel=1e-5)
        and b.se == pytest.approx(a.se, rel=1e-5)
        and b.settings == a.settings
    )
    for name in ("half", "extrapolated", "kid", "precision", "recall"):
        np.testing.assert_allclose(b.arrays[name], a.arrays[name], rtol=1e-4)
    with h5py.File(alone / "evaluation.h5") as one, h5py.File(together / "evaluation.h5") as other:
        assert np.abs(one["samples/generated"][:].astype(int) - other["samples/generated"][:]).max() <= 1
    assert not (together / "evaluation.parts").exists()


@pytest.mark.slow
def test_a_named_extractor_from_a_file_of_weights(inception):
    """Inception of random weights from a local file: its features are torch-fidelity's own, and grey pictures will
    do."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    made = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(inception))
    data = compose(["study=mini"]).data
    features, name, width = load_extractor(
        Evaluation(extractor="inception-v3-compat", weights=str(inception)), data, ONE
    )
    x = torch.randint(0, 256, (4, 3, 12, 12), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    assert width == 2048 and name.startswith("inception-v3-compat ")
    torch.testing.assert_close(features(x), made.eval()(x)[0])
    torch.testing.assert_close(features(x[:, :1]), made(x[:, :1].repeat(1, 3, 1, 1))[0])


@pytest.mark.slow
def test_two_runs_extract_one_reference_at_once(study, tmp_path, monkeypatch):
    """The second begins and ends while the first is in the middle of it."""
    runs = [tmp_path / path.name for path in sorted(study.glob("runs/*"))[:2]]
    for path in runs:
        shutil.copytree(study / "runs" / path.name, path)
        (path / "evaluation.h5").unlink(missing_ok=True)
    words = ["--metrics", "fid", "--dataset", "scenes", "--n", "300", "--few", "--steps", "1", "--samples", "0"]
    monkeypatch.setattr(fid, "cache", lambda: tmp_path / "cache")
    rows, began = fid._Reference.rows, []

    def meanwhile(self, index):
        began.append(index)
        if len(began) == 1:
            assert main(["evaluate", str(runs[1]), *words]) == 0
        return rows(self, index)

    monkeypatch.setattr(fid._Reference, "rows", meanwhile)
    assert main(["evaluate", str(runs[0]), *words]) == 0
    assert all([r.metric for r in read_results(path / "evaluation.h5")] == ["fid"] for path in runs)
    assert not any((path / "evaluation.parts").exists() for path in runs)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".npz"]
