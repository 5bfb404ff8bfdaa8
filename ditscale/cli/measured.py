"""Verbs that measure finished runs and gather what was measured."""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError

# whole numbers that options take at most: far beyond any use, and before memory or a file's integers end
MOST = {"n": 10**8, "samples": 10**4, "batch_size": 10**6, "probes": 10**4, "steps": 10**4, "seed": 2**31 - 1}


def add(verb):
    """The parsers of these verbs; verb(name, function, text) makes one."""
    sub = verb(
        "evaluate",
        evaluate,
        "Measure a finished run, and draw samples: what is there with the same settings is not measured again.",
    )
    sub.add_argument("run_dir", metavar="RUN_DIR")
    sub.add_argument(
        "--metrics",
        metavar="NAME,...",
        help="of val_loss, vlb, likelihood, fid (those of the study's evaluation, or val_loss); the options below are "
        "taken from there too",
    )
    sub.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="NAME",
        help="the run's own data, a label of validation.also, or LABEL=FILE; may be repeated (all but files)",
    )
    sub.add_argument(
        "--ema", metavar="WINDOW", help="of the EMA weights: one that the run kept, or any between (the run's own)"
    )
    sub.add_argument(
        "--n",
        "--images",
        metavar="N",
        help="held-out images (the study's validation.n); torchrun takes --n for its own",
    )
    sub.add_argument("--batch-size", metavar="N", help="images in memory at a time (the study's validation.batch_size)")
    sub.add_argument("--seed", metavar="N", help="of the noise (the study's validation.seed, so that runs share it)")
    sub.add_argument("--t-min", metavar="T", help="the data's end of the variational bound (0.01)")
    sub.add_argument("--trace", metavar="HOW", help="divergence of the likelihood: hutchinson or exact (hutchinson)")
    sub.add_argument("--probes", metavar="N", help="of the trace, for each image (1)")
    sub.add_argument("--tolerance", metavar="X", help="of the likelihood's solver (1e-3)")
    sub.add_argument("--samples", metavar="N", help="images to draw to look at (16)")
    sub.add_argument("--sampler", metavar="NAME", help="heun or euler (heun)")
    sub.add_argument("--steps", metavar="N", help="of the sampler (32)")
    sub.add_argument("--guidance", metavar="G", help="classifier-free, of the sampler; 1 is none (1)")
    sub.add_argument("--extractor", metavar="NAME", help="of FID's features (caption-reader, which is trained here)")
    sub.add_argument("--weights", metavar="FILE", help="of the extractor, where it is not ours")
    sub.add_argument("--decoder", metavar="DIR", help="of latents: their VAE, as diffusers' AutoencoderKL keeps it")
    sub.add_argument("--few", action="store_true", help="an FID of fewer than 2048 images")

    sub = verb(
        "fetch-weights",
        fetch_weights,
        "Download the weights of a feature extractor for FID, on a machine with internet: runs never do.",
    )
    sub.add_argument("extractor", metavar="NAME", help="clip-vit-l-14, inception-v3-compat or vgg16")
    sub.add_argument("--to", type=Path, metavar="FILE", help="(the cache: DITSCALE_CACHE, or ~/.cache/ditscale)")
    sub.add_argument("--url", default="", metavar="URL", help="of a mirror; the hash is checked all the same")

    sub = verb(
        "collect", collect, "Read every run's record into study.h5 and study.csv; list what is left out and why."
    )
    sub.add_argument("dir", metavar="DIR")


def evaluate(options):
    from dataclasses import replace

    from .. import units
    from ..config import Evaluation
    from ..naming import RunPaths
    from ..plan.run import read_run

    whole = {
        name: units.whole(text, f"--{name.replace('_', '-')}", high=most)
        for name, most in MOST.items()
        if (text := getattr(options, name)) is not None
    }
    given = {name: whole[name] for name in ("n", "probes", "steps") if name in whole}
    real = {name: getattr(options, name) for name in ("t_min", "tolerance", "guidance")}
    given |= {
        name: units.number(text, f"--{name.replace('_', '-')}") for name, text in real.items() if text is not None
    }
    given |= {"few": False} if "n" in given else {}  # the study's consent to few images is to its own n
    given |= {
        name: value
        for name in ("trace", "sampler", "extractor", "weights", "decoder", "few")
        if (value := getattr(options, name))
    }
    if given.get("n") == 0:
        raise UserError("--n: 0 is too small; use 2 or more")
    more = {name: whole[name] for name in ("batch_size", "seed", "samples") if name in whole}
    if options.ema is not None:
        more["ema"] = units.number(options.ema, "--ema")
    asked = read_run(RunPaths(options.run_dir).run).evaluation
    names = options.metrics.split(",") if options.metrics else asked or ["val_loss"]
    metrics = {name: replace(asked.get(name, Evaluation()), **given) for name in names}
    from ..evaluate.run import evaluate as measure
    from ..evaluate.settings import Settings
    from ..process import this_process

    labels = [text.split("=", 1)[0] for text in options.dataset]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise UserError(f"--dataset {twice}: given twice; name each data set once")
    files = dict(text.split("=", 1) for text in options.dataset if "=" in text)
    made = measure(options.run_dir, Settings(metrics, tuple(labels), files, **more))
    if this_process().first:
        print(made.summary())


def fetch_weights(options):
    from ..errors import one_of
    from ..evaluate.weights import WEIGHTS
    from ..evaluate.weights import fetch_weights as fetch

    one_of(options.extractor, tuple(WEIGHTS), "fetch-weights")
    print(fetch(options.extractor, options.to, options.url))


def collect(options):
    from ..collect.table import collect as gather

    print(gather(options.dir).summary())
