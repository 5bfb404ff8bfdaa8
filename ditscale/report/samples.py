"""Figures of pictures: the best run beside held-out pictures of the same captions, and the best of each budget."""

import base64
import io
import textwrap
from functools import partial
from html import escape
from typing import cast

import numpy as np
from matplotlib.figure import FigureBase
from matplotlib.image import imsave

from ..units import compact
from .read import Samples, StudyResults
from .style import Panel, Plot

SHOWN = 16  # Pairs of the best run; more would only make the page heavy.
COLUMNS = 8  # Captions of the figure over compute.
SIDE = 48  # Least side of a picture on the page, in pixels.


def pictures(x: np.ndarray, like: np.ndarray) -> np.ndarray:
    """uint8 [n, R, R, 3] of pixels, or of latents: their first three channels, scaled to the range of `like`."""
    if x.dtype == np.uint8:
        return np.repeat(x, 3, axis=-1) if x.shape[-1] == 1 else x
    x, like = np.nan_to_num(x[..., :3]), np.nan_to_num(like[..., :3].astype(float))
    x = np.pad(x, ((0, 0),) * 3 + ((0, 3 - x.shape[-1]),), mode="edge") if x.shape[-1] < 3 else x
    low, high = np.quantile(like, [0.01, 0.99])
    return (np.clip((x - low) / max(high - low, 1e-9), 0, 1) * 255).astype(np.uint8)


def pairs(samples: Samples) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(caption, generated, reference) of at most SHOWN samples; pictures are uint8 [R, R, 3]."""
    generated, reference = (pictures(x[:SHOWN], samples.reference) for x in (samples.generated, samples.reference))
    return list(zip(samples.captions[:SHOWN], generated, reference, strict=True))


def page_list(samples: Samples) -> str:
    """The pairs as HTML, where captions wrap and can be read aloud."""
    items = ""
    for caption, *pictures in pairs(samples):
        shown = zip(("generated", "held out"), map(data_uri, pictures), strict=True)
        images = "".join(f'<img src="{uri}" alt="{kind}: {escape(caption)}">' for kind, uri in shown)
        items += f"<li>{images}<span>{escape(caption)}</span></li>"
    return f'<ul class="samples">{items}</ul>'


def data_uri(picture: np.ndarray) -> str:
    """A small picture as a PNG inside a URI, enlarged by whole pixels."""
    times = max(1, -(-SIDE // len(picture)))
    out, metadata = io.BytesIO(), cast(dict[str, str], {"Software": None})  # None: no version in the file.
    imsave(out, np.kron(picture, np.ones((times, times, 1), dtype=np.uint8)), format="png", metadata=metadata)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def samples_plot(results: StudyResults) -> Plot | None:
    """The pairs as a figure; the page shows them as HTML (`page_list`)."""
    if not (s := results.samples):
        return None
    shown = pairs(s)
    columns, rows = min(4, len(shown)), -(-len(shown) // 4)
    text = f"{len(shown)} samples of run {s.run_id}, the one with the lowest validation loss ({s.settings}). In each"
    text += " pair: left generated, right the held-out picture of the same caption. Not chosen: the first of the"
    text += " validation set. Enlarged without smoothing."
    if s.generated.dtype != np.uint8:
        text += " These are latents, not pixels: their first three channels, in the range of the held-out ones."
    draw = partial(_draw_pairs, shown, rows, columns)
    panel = Panel(draw, 2.1 * columns, 1.35 * rows + 0.2, "Generated and held-out pictures")
    return Plot("samples", "Samples of the best run", text, (panel,))


def _draw_pairs(shown: list[tuple], rows: int, columns: int, figure: FigureBase) -> None:
    cells = figure.subplots(rows, columns, squeeze=False).ravel()
    for cell in cells:
        cell.axis("off")
    for cell, (caption, generated, reference) in zip(cells, shown, strict=False):
        gap = np.full((len(generated), max(1, len(generated) // 10), 3), 255, np.uint8)
        cell.imshow(np.concatenate([generated, gap, reference], axis=1), interpolation="nearest")
        cell.set_title(textwrap.fill(caption, 26), fontsize=8.5, fontweight="normal", parse_math=False)


def grids_plot(results: StudyResults) -> Plot | None:
    """One row of samples for each budget, and the held-out pictures last; None with fewer than two budgets."""
    if len(results.grids) < 2:
        return None
    rows = {compact(budget): pictures(s.generated[:COLUMNS], s.reference) for budget, s in results.grids.items()}
    s = next(iter(results.grids.values()))
    rows["held out"] = pictures(s.reference[:COLUMNS], s.reference)
    text = "The run with the lowest loss of each budget, FLOPs at the left, at the same captions and from the same"
    text += f" noise ({s.settings}); the last row shows the held-out pictures of these captions. Not chosen: the first"
    text += " of the validation set."
    panel = Panel(partial(_draw_grid, rows), 6.6, 0.72 * len(rows) + 0.2, "Samples by budget")
    return Plot("grids", "Samples over compute", text, (panel,))


def _draw_grid(rows: dict[str, np.ndarray], figure: FigureBase) -> None:
    lines = figure.subplots(len(rows), len(rows["held out"]), squeeze=False)
    for line, (name, shown) in zip(lines, rows.items(), strict=True):
        for cell, picture in zip(line, shown, strict=True):
            cell.imshow(picture, interpolation="nearest")
            cell.set(xticks=[], yticks=[])
            cell.spines[:].set_visible(False)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
