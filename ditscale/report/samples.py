"""Figures of pictures: the best run beside held-out pictures of the same captions, and the best of each budget."""

from __future__ import annotations

import base64
import io

import numpy as np
from matplotlib.image import imsave

from ..units import compact
from .read import Material
from .style import Panel, Plot

SHOWN = 16  # pairs; more would only make the page heavy
SIDE = 48  # least side of a picture as written, in pixels


def pictures(x: np.ndarray, like: np.ndarray) -> np.ndarray:
    """uint8 [n, R, R, 3] of pixels, or of latents: their first three channels, scaled to the range of `like`."""
    if x.dtype == np.uint8:
        return np.repeat(x, 3, axis=-1) if x.shape[-1] == 1 else x
    x, like = x[..., :3], like[..., :3].astype(float)
    x = np.pad(x, ((0, 0),) * 3 + ((0, 3 - x.shape[-1]),), mode="edge") if x.shape[-1] < 3 else x
    low, high = np.quantile(like, [0.01, 0.99])
    return (np.clip((x - low) / max(high - low, 1e-9), 0, 1) * 255).astype(np.uint8)


def pairs(material: Material) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(caption, generated, reference) of at most SHOWN samples."""
    s = material.samples
    made, held = pictures(s.generated[:SHOWN], s.reference), pictures(s.reference[:SHOWN], s.reference)
    return list(zip(s.captions[:SHOWN], made, held, strict=True))


def data_uri(picture: np.ndarray) -> str:
    """A small picture as a PNG inside a URI, enlarged by whole pixels."""
    times = max(1, -(-SIDE // len(picture)))
    out = io.BytesIO()
    imsave(out, np.kron(picture, np.ones((times, times, 1), dtype=np.uint8)), format="png", metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def samples_plot(material: Material) -> Plot | None:
    """The pairs as a figure; on the page they are HTML, so that captions wrap and can be read aloud."""
    if material.samples is None:
        return None
    s, shown = material.samples, pairs(material)
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)

    def draw(figure):
        import textwrap

        grid = np.atleast_2d(figure.subplots(rows, columns, squeeze=False))
        for axes in grid.ravel():
            axes.axis("off")
        for axes, (caption, made, held) in zip(grid.ravel(), shown, strict=False):
            gap = np.full((len(made), max(1, len(made) // 10), 3), 255, np.uint8)
            axes.imshow(np.concatenate([made, gap, held], axis=1), interpolation="nearest")
            axes.set_title(textwrap.fill(caption, 26), fontsize=8.5, fontweight="normal")

    text = (
        f"{len(shown)} samples of run {s.run_id}, the one with the lowest validation loss ({s.settings}). In each pair:"
        " left generated, right the held-out picture of the same caption. Not chosen: the first of the validation set."
        " Enlarged without smoothing."
    )
    if material.samples.generated.dtype != np.uint8:
        text += " These are latents, not pixels: their first three channels, in the range of the held-out ones."
    return Plot(
        "samples",
        "Samples of the best run",
        text,
        (Panel(draw, 2.1 * columns, 1.35 * rows + 0.2, "Generated and held-out pictures"),),
    )


COLUMNS = 8  # captions of the grid


def grids_plot(material: Material) -> Plot | None:
    """A row of samples a budget, at the same captions and from the same noise, and the held-out pictures last; None
    where fewer than two budgets have samples."""
    if len(material.grids) < 2:
        return None
    rows = {compact(budget): pictures(s.generated[:COLUMNS], s.reference) for budget, s in material.grids.items()}
    last = next(iter(material.grids.values()))
    rows["held out"] = pictures(last.reference[:COLUMNS], last.reference)

    def draw(figure):
        axes = figure.subplots(len(rows), min(COLUMNS, len(last.captions)), squeeze=False)
        for line, (name, shown) in zip(axes, rows.items(), strict=True):
            for cell, picture in zip(line, shown, strict=False):
                cell.imshow(picture, interpolation="nearest")
                cell.set_xticks([])
                cell.set_yticks([])
                cell.grid(False)
                cell.spines[:].set_visible(False)
            line[0].set_ylabel(name, rotation=0, ha="right", va="center")

    text = (
        "The run with the lowest loss of each budget, FLOPs at the left, at the same captions and from the same noise "
        f"({last.settings}); "
        "the last row shows the held-out pictures of these captions. Not chosen: the first of the validation set."
    )
    return Plot("grids", "Samples over compute", text, (Panel(draw, 6.6, 0.72 * len(rows) + 0.2, "Samples by budget"),))
