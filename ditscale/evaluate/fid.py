"""FID, KID, precision and recall of a run's samples against the held-out images of the same captions.

Samples are drawn at the captions of positions 0 .. n - 1 and compared with the images there, so every run of a study
has the same captions, noise and reference. Pictures reach the extractor as uint8 at native size; latents are decoded by
their VAE, and held against the pictures they were made from, where the file keeps these, else against the decoded
latents. FID is ours (frechet.py), held equal to torch-fidelity's to 1e-6 by a test; KID (Binkowski et al., arXiv
1801.01401), precision and recall (Kynkaanniemi et al., arXiv 1904.06991) are torch-fidelity's.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Callable

import numpy as np
import torch
from torch import Tensor, nn

from ..config import FEWEST, LEAST, Data, Evaluation, plain
from ..diffusion.sampler import model_evaluations
from ..distributed.ranks import Ranks
from ..errors import UserError
from ..files import make_directory, write_bytes
from ..naming import cache, digest
from . import frechet, samples
from .decoder import check_decoder
from .extractor import extractor, torch_fidelity
from .held_out import HeldOut
from .measure import clear, measure
from .miniature_reader import NAME as READER
from .to_pictures import decoder_of, sight
from .weights import check_weights

RESAMPLES = 100
WIDE, RESAMPLES_WIDE = 512, 30  # features; a resample of 2048 takes seconds, and 30 tell a standard error to 13 %
SUBSETS, SUBSET = 100, 1000  # of KID: torch-fidelity's own
DISTANCES = 2_000_000  # between images, in memory at a time for precision and recall, however many images there are


class FID:
    """Its rows are the features of generated images. `check` says where there can be none."""

    name = "fid"
    dtype = torch.float32

    def __init__(
        self,
        model: nn.Module,
        data: HeldOut,
        asked: Evaluation,
        own: Data,
        precision: str,
        ranks: Ranks,
        parts: Path,
        tick: Callable[[], None],
    ):
        """own: the run's own data set, whatever it is measured on. parts: where this run keeps what it has done."""
        self.parts, self.tick = parts, tick
        self.model, self.data, self.how, self.precision, self.ranks = model, data, asked, precision, ranks
        self.features, full_name, width = extractor(asked, own, ranks)
        self.columns = list(range(width))
        self.settings = {
            "extractor": full_name,
            "sampler": asked.sampler,
            "steps": asked.steps,
            "guidance": asked.guidance,
        }
        self.settings |= {"precision": precision, "pictures": "uint8, native size"}
        self.see, self.against = sight(data, asked.decoder), {}
        if not data.pixels:
            kept = data.source.pictures(torch.zeros(1, dtype=torch.int64)) is not None
            decoder = decoder_of(asked.decoder, data.device).full_name
            self.settings |= {"decoder": decoder, "reference": "pictures of the file" if kept else "decoded latents"}
            self.against = {"reference": "pictures" if kept else decoder}

    def rows(self, index: Tensor) -> tuple[np.ndarray, int]:
        """Features float32 [B, F] of images generated at positions index [B]."""
        x0, text = self.data.images(index)
        made = samples.generate(self.model, self.data, index, x0, text, self.how, self.precision)
        evaluations = model_evaluations(self.how.steps, self.how.sampler, self.how.guidance)
        return self.features(self.see(made)).cpu().numpy(), evaluations * len(index)

    def result(self, rows: np.ndarray) -> dict:
        reference = self.reference()
        value, half = frechet.whole_and_half(rows, reference)
        resamples = RESAMPLES if rows.shape[1] <= WIDE else RESAMPLES_WIDE
        se, extrapolated_se = frechet.standard_errors(rows, reference, resamples, self.data.seed)
        made = {"value": value, "se": se, "unit": "squared feature", "half": np.array([half, len(rows) // 2])}
        made["extrapolated"] = np.array([frechet.extrapolated(value, half), extrapolated_se])
        return made | kid_and_recall(rows, reference)

    def reference(self) -> np.ndarray:
        """Features [n, F] of the held-out images, from the cache or extracted now by all ranks."""
        kind = {
            "data": plain(self.data.described),
            "n": self.data.n,
            "extractor": self.settings["extractor"],
            **self.against,
            **self.data.settings,
        }
        path = cache() / f"reference-{digest(kind)[:12]}.npz"
        kept = self.ranks.broadcast(_kept(path) if self.ranks.first else None)
        if kept is not None:
            return kept
        parts = self.parts / path.stem  # this run's own: another may extract the same at this moment
        rows, _, _ = measure(_Reference(self), self.data.n, 256, parts, self.ranks, self.tick)
        if self.ranks.first:
            memory = io.BytesIO()
            np.savez(memory, features=rows)
            make_directory(path.parent)
            write_bytes(path, memory.getvalue())
            clear(parts)
        return rows


def _kept(path: Path) -> np.ndarray | None:
    """Features in the cache; None where there are none, or a machine went down on them."""
    try:
        return np.load(path)["features"]
    except Exception:  # a cut file raises any of several types
        return None


class _Reference:
    name, settings, dtype = "reference features", {}, torch.float32

    def __init__(self, fid: FID):
        self.fid, self.columns = fid, fid.columns

    def rows(self, index: Tensor) -> tuple[np.ndarray, int]:
        kept = self.fid.data.source.pictures(index)
        seen = self.fid.see(self.fid.data.images(index)[0]) if kept is None else kept.to(self.fid.ranks.device)
        return self.fid.features(seen).cpu().numpy(), 0


def check(data: HeldOut, asked: Evaluation):
    """Raise UserError where there can be no FID, before anything is drawn."""
    if not data.pixels and not asked.decoder:
        raise UserError(
            f"fid: {data.name} is latents, and an extractor wants pictures; name the directory of their VAE: --decoder "
            "DIR (evaluation.fid.decoder of a study)"
        )
    if not data.pixels and asked.extractor == READER:
        raise UserError(
            f"fid: the {READER} learns from pictures, and {data.name} is latents; choose another, as --extractor "
            "clip-vit-l-14"
        )
    if not data.pixels:
        check_decoder(Path(asked.decoder))
    if data.n < LEAST:
        raise UserError(f"fid: {data.n} images give no FID at all; use --n {FEWEST} or more")
    if data.n < FEWEST and not asked.few:
        raise UserError(
            f"fid: {data.n} images are too few for a number that means something; use --n {FEWEST} or more, or add "
            "--few"
        )
    check_weights(asked)


def kid_and_recall(generated: np.ndarray, reference: np.ndarray) -> dict[str, np.ndarray]:
    """KID with its standard deviation over subsets, precision and recall, of features [n, F], by torch-fidelity."""
    torch_fidelity()
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    pair = [torch.from_numpy(np.asarray(rows, dtype=np.float32)) for rows in (generated, reference)]
    # a subset of all images would be the same each time, and have no spread
    size = min(SUBSET, *(max(2, len(rows) // 2) for rows in pair))
    kid = kid_features_to_metric(*pair, kid_subsets=SUBSETS, kid_subset_size=size, verbose=False)
    beside = max(1, DISTANCES // max(map(len, pair)))  # images whose distances to all others are
    prc = prc_features_to_metric(*pair, save_cpu_ram=True, prc_batch_size=beside, verbose=False)
    spread = [kid[f"kernel_inception_distance_{which}"] for which in ("mean", "std")]
    return {"kid": np.array(spread), "precision": np.float64(prc["precision"]), "recall": np.float64(prc["recall"])}
