"""FID, KID, precision and recall of a run's samples against the held-out images of the same captions (of latents: the
pictures they were made from, where the file has these, else decoded latents). FID is ours (frechet.py), equal to
torch-fidelity's to 1e-6, which has KID (arXiv 1801.01401), precision and recall (arXiv 1904.06991)."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..config import Data, Evaluation, plain
from ..diffusion.rectified_flow import Velocity
from ..files import make_directory
from ..naming import cache, digest
from . import frechet, samples
from .decoder import check_decoder
from .extractor import load_extractor, torch_fidelity
from .held_out import HeldOut
from .measure import Value, Workers, clear, load_arrays, measure, save_arrays
from .weights import check_weights

# Of the bootstrap; fewer above WIDE features, which take seconds each: 30 determine a standard error to 13 %.
RESAMPLES, RESAMPLES_WIDE, WIDE = 100, 30, 512
SUBSETS, SUBSET = 100, 1000  # torch-fidelity's own defaults for KID.
DISTANCES = 2_000_000  # Distances between images that are in memory at a time for precision and recall.
REFERENCE_CHUNK = 256  # Held-out images whose features are extracted at once.


def check(data: HeldOut, how: Evaluation):
    """Raise UserError where there can be no FID, before anything is drawn."""
    how.check_fid(data.name, data.pixels, data.n, "")
    if not data.pixels:
        check_decoder(Path(how.decoder))
    check_weights(how)


class FID:
    """Its rows are the features of generated images."""

    name, dtype = "fid", torch.float32

    def __init__(self, model: Velocity, data: HeldOut, how: Evaluation, own: Data, precision: str, workers: Workers):
        """own: the run's own data set, whichever it is measured on; our extractor learns from it."""
        self.model, self.data, self.how, self.precision, self.workers = model, data, how, precision, workers
        self.features, extractor, width = load_extractor(how, own, workers.ranks)
        self.columns = range(width)
        self.pictures = samples.Pictures(data, how.decoder)
        self.settings = {"extractor": extractor, "sampler": how.sampler, "steps": how.steps, "guidance": how.guidance}
        self.settings |= {"precision": precision, "pictures": "uint8, native size"}
        # All that decides the features of the held-out images.
        self.reference_key = {"data": plain(data.config), "n": data.n, "extractor": extractor, **data.settings}
        if self.pictures.vae is not None:
            decoder, originals = self.pictures.vae.full_name, data.source.pictures(torch.zeros(1, dtype=torch.int64))
            by = ("decoded latents", decoder) if originals is None else ("pictures of the file", "pictures")
            self.settings |= {"decoder": decoder, "reference": by[0]}
            self.reference_key["reference"] = by[1]

    def rows(self, index: Tensor) -> tuple[np.ndarray, int]:
        images = samples.generate(self.model, self.data, index, self.how, self.precision)
        return self.features(self.pictures.of(images)).cpu().numpy(), self.how.model_evaluations * len(index)

    def result(self, rows: np.ndarray) -> Value:
        reference = self.reference()
        value, half = frechet.whole_and_half(rows, reference)
        resamples = RESAMPLES if rows.shape[1] <= WIDE else RESAMPLES_WIDE
        se, extrapolated_se = frechet.standard_errors(rows, reference, resamples, self.data.seed)
        arrays = kid_and_recall(rows, reference) | {"half": np.array([half, len(rows) // 2])}
        arrays["extrapolated"] = np.array([frechet.extrapolated(value, half), extrapolated_se])
        return Value(value, se, "squared feature", arrays)

    def reference(self) -> np.ndarray:
        """Features [n, F] of the held-out images, from the cache or extracted now by all ranks."""
        path, ranks = cache() / f"reference-{digest(self.reference_key)[:12]}.npz", self.workers.ranks
        cached = ranks.broadcast(load_arrays(path, "features") if ranks.first else None)
        if cached:
            return cached[0]
        # The chunks are in this run's own directory, because another run may extract the same features at this moment.
        rows, _, _ = measure(_Reference(self), self.data.n, REFERENCE_CHUNK, path.stem, self.workers)
        if ranks.first:
            make_directory(path.parent)
            save_arrays(path, features=rows)
            clear(self.workers.parts / path.stem)
        return rows


class _Reference:
    name, dtype = "reference features", torch.float32

    def __init__(self, fid: FID):
        self.fid, self.columns = fid, fid.columns

    def rows(self, index: Tensor) -> tuple[np.ndarray, int]:
        return self.fid.features(self.fid.pictures.reference(index)).cpu().numpy(), 0


def kid_and_recall(generated: np.ndarray, reference: np.ndarray) -> dict[str, np.ndarray]:
    """KID with its standard deviation over subsets, precision and recall, of features [n, F], by torch-fidelity."""
    torch_fidelity()
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    pair = [torch.from_numpy(np.asarray(rows, dtype=np.float32)) for rows in (generated, reference)]
    # Subsets of all images would be the same each time, and have no spread.
    size = min(SUBSET, *(max(2, len(rows) // 2) for rows in pair))
    kid = kid_features_to_metric(*pair, kid_subsets=SUBSETS, kid_subset_size=size, verbose=False)
    batch = max(1, DISTANCES // max(map(len, pair)))  # Images whose distances to all others are in memory.
    prc = prc_features_to_metric(*pair, save_cpu_ram=True, prc_batch_size=batch, verbose=False)
    kid_mean_std = [kid[f"kernel_inception_distance_{which}"] for which in ("mean", "std")]
    return {"kid": np.array(kid_mean_std)} | {name: np.array(prc[name]) for name in ("precision", "recall")}
