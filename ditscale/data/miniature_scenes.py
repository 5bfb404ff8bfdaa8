"""Scenes: endless little pictures with captions, like "a red star upper left and a white cup right on blue".

Two icons, each of one colour, stand on a ground of another, under uneven light. The caption names their shapes, colours
and places, and the ground; nothing else. Telling 256 icons of unequal frequency (Zipf's law) apart takes size, and
having seen the rare ones training: a scaling law needs both ("The quantization model of neural scaling", Michaud et
al., 2023; docs/measured/miniature.md). `scenes-ood` has the same words with another distribution of all the rest."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError, one_of
from . import draws
from .source import Source

COLOURS = {  # RGB in [-1, 1].
    "red": (0.75, -0.7, -0.7), "green": (-0.7, 0.6, -0.7), "blue": (-0.6, -0.6, 0.75), "yellow": (0.75, 0.65, -0.7),
    "magenta": (0.65, -0.65, 0.6), "cyan": (-0.7, 0.6, 0.7), "white": (0.75,) * 3, "black": (-0.75,) * 3,
}  # fmt: skip
PLACES = "upper left, top, upper right, left, centre, right, lower left, bottom, lower right".split(", ")

# A shape says whether the point (x, y) is inside, a fill how opaque it is there; x right, y down, both in [-1, 1].
SHAPES = {
    "disc": lambda x, y: x.hypot(y) < 0.9,
    "ring": lambda x, y: (x.hypot(y) < 0.95) & (x.hypot(y) > 0.5),
    "square": lambda x, y: x.abs().maximum(y.abs()) < 0.8,
    "frame": lambda x, y: (x.abs().maximum(y.abs()) - 0.65).abs() < 0.22,
    "diamond": lambda x, y: x.abs() + y.abs() < 0.98,
    "triangle": lambda x, y: (y < 0.8) & (x.abs() < 0.55 * (y + 0.9)),
    "cross": lambda x, y: (x.abs().minimum(y.abs()) < 0.27) & (x.abs().maximum(y.abs()) < 0.92),
    "saltire": lambda x, y: ((x.abs() - y.abs()).abs() < 0.35) & (x.abs().maximum(y.abs()) < 0.88),
    "star": lambda x, y: x.hypot(y) < 0.62 + 0.33 * (5 * torch.atan2(x, -y)).cos(),
    "heart": lambda x, y: (1.3 * x) ** 2 + (0.25 - 1.25 * y - 0.75 * x.abs().sqrt() + 0.35) ** 2 < 1.0,
    "moon": lambda x, y: (x.hypot(y) < 0.92) & ((x - 0.5).hypot(y) > 0.65),
    "arrow": lambda x, y: ((y.abs() < 0.25) & (x > -0.9) & (x < 0.1)) | ((x >= 0.0) & (y.abs() < 0.9 - x)),
    "hourglass": lambda x, y: (y.abs() < 0.88) & (x.abs() < 0.1 + 0.8 * y.abs()),
    "bow": lambda x, y: (x.abs() < 0.88) & (y.abs() < 0.1 + 0.8 * x.abs()),
    "house": lambda x, y: ((y >= -0.1) & (y < 0.85) & (x.abs() < 0.6)) | ((y < -0.1) & (x.abs() < 1.1 * (y + 0.9))),
    "cup": lambda x, y: ((y.abs() < 0.8) & ((x.abs() - 0.6).abs() < 0.22)) | ((y > 0.35) & (y < 0.8) & (x.abs() < 0.8)),
}
FILLS = {
    "plain": lambda x, y: torch.ones_like(x),
    "striped": lambda x, y: ((2 * math.pi * y).cos() > 0).float(),
    "barred": lambda x, y: ((2 * math.pi * x).cos() > 0).float(),
    "slanted": lambda x, y: ((1.5 * math.pi * (x + y)).cos() > 0).float(),
    "tilted": lambda x, y: ((1.5 * math.pi * (x - y)).cos() > 0).float(),
    "checked": lambda x, y: ((1.5 * math.pi * x).sin() * (1.5 * math.pi * y).sin() > 0).float(),
    "dotted": lambda x, y: ((2 * math.pi * x).cos() + (2 * math.pi * y).cos() > -0.3).float(),
    "quartered": lambda x, y: (x * y > 0).float(),
    "halved": lambda x, y: (x < 0).float(),
    "capped": lambda x, y: (y < 0).float(),
    "fading": lambda x, y: 0.5 - 0.5 * x,
    "dawning": lambda x, y: 0.5 + 0.5 * x,
    "sinking": lambda x, y: 0.5 - 0.5 * y,
    "rising": lambda x, y: 0.5 + 0.5 * y,
    "glowing": lambda x, y: 1 - x.hypot(y).clamp(max=1),
    "hollow": lambda x, y: x.hypot(y).clamp(max=1),
}
ICONS = [f"{fill} {shape}" for shape in SHAPES for fill in FILLS]
TEXELS = 16  # An icon's mask is TEXELS x TEXELS.

WORDS = ["", *COLOURS, *PLACES, *SHAPES]  # The vocabulary; id 0 is the empty text.
_COLOUR, _PLACE, _SHAPE = 1, 1 + len(COLOURS), 1 + len(COLOURS) + len(PLACES)


@dataclass(frozen=True)
class Style:
    """How scenes vary. Lengths in half-widths of the picture, colours and light in units of the pixel values."""

    icons: str  # The order of frequency is a fixed shuffle of ICONS with this name.
    zipf: float  # The icon of rank r has weight 1 / r**zipf.
    shade: float  # Largest change of a colour channel.
    light: float  # Largest slope of the light along each axis.
    stray: float  # Largest distance of an icon's centre from its place, along each axis.
    scale: tuple[float, float]  # Smallest and largest half-width of an icon.


IN_DOMAIN = Style(icons="scenes", zipf=0.5, shade=0.15, light=0.2, stray=0.1, scale=(0.6, 0.8))
OUT_OF_DOMAIN = Style(icons="scenes-ood", zipf=0.4, shade=0.2, light=0.25, stray=0.15, scale=(0.7, 0.9))
STYLES = {"scenes": IN_DOMAIN, "scenes-ood": OUT_OF_DOMAIN}


class Scenes(Source):
    """Scene i is a pure function of (seed, style, i). size: height and width in pixels. objects: icons per picture,
    each with three tokens (colour, shape, place); the last token is the ground. UserError for an unknown style."""

    channels, text_vocab, text_dim, pixels = 3, len(WORDS), 0, True

    def __init__(self, size: int = 12, objects: int = 2, seed: int = 0, style: str = "scenes"):
        self.style = STYLES[one_of(style, STYLES, "scenes style")]
        if size < 4 or objects < 1:
            raise UserError(f"scenes: size {size} and objects {objects}; at least 4 pixels and 1 object")
        self.name, self.resolution, self.objects = style, size, objects
        self.text_length, self.encoders = 3 * objects + 1, {}
        self._key = draws.key(seed, style)
        self._palette = torch.tensor(list(COLOURS.values()))
        self._masks = icon_masks()
        self._rank, self._cdf = _zipf(self.style)

    def read(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Scenes at `index` (int64 [B]): images float32 [B, 3, size, size] in about [-1, 1], texts int64 [B, T]."""
        style, n = self.style, self.objects
        u = draws.uniform(self._key, index, 6 + 10 * n)
        grid = (torch.arange(self.resolution) + 0.5) * (2 / self.resolution) - 1
        ground = _pick(u[:, 0], len(COLOURS))
        slope = (2 * u[:, 1:3] - 1) * style.light
        image = self._shade(ground, u[:, 3:6])[:, :, None, None].expand(-1, -1, len(grid), len(grid))
        text = []
        for v in u[:, 6:].split(10, dim=1):
            colour = (ground + 1 + _pick(v[:, 0], len(COLOURS) - 1)) % len(COLOURS)  # Never the ground's.
            icon = self._rank[torch.searchsorted(self._cdf, v[:, 1].double())]
            place = _pick(v[:, 2], len(PLACES))
            half = style.scale[0] + (style.scale[1] - style.scale[0]) * v[:, 3:4]
            x = 0.4 * (place % 3 - 1)[:, None] + (2 * v[:, 4:5] - 1) * style.stray
            y = 0.4 * (place // 3 - 1)[:, None] + (2 * v[:, 5:6] - 1) * style.stray
            across, down = _lookup(grid, x, half), _lookup(grid, y, half)
            mask = (down @ self._masks[icon] @ across.mT)[:, None]
            image = torch.lerp(image, self._shade(colour, v[:, 6:9])[:, :, None, None], mask)
            text += [_COLOUR + colour, _SHAPE + icon // len(FILLS), _PLACE + place]
        light = slope[:, 0, None, None] * grid + slope[:, 1, None, None] * grid[:, None]
        return image + light[:, None], torch.stack([*text, _COLOUR + ground], dim=1)

    def captions(self, index: Tensor) -> list[str]:
        return [self.caption(text) for text in self.read(index)[1].cpu()]

    def caption(self, text: Tensor) -> str:
        """One text (int64 [T]) in words; the empty string for the empty text."""
        words = [WORDS[i] for i in text.tolist()]
        if not any(words):
            return ""
        things = [f"a {' '.join(words[i : i + 3])}" for i in range(0, len(words) - 1, 3)]
        return f"{' and '.join(things)} on {words[-1]}"

    def _shade(self, colour: Tensor, u: Tensor) -> Tensor:
        return self._palette[colour] + (2 * u - 1) * self.style.shade


def icon_masks() -> Tensor:
    """Opacity of every icon, float32 [256, TEXELS, TEXELS] in [0, 1], averaged over 4 x 4 points of each texel."""
    points = (torch.arange(4 * TEXELS) + 0.5) / (2 * TEXELS) - 1
    y, x = torch.meshgrid(points, points, indexing="ij")
    fills = [fill(x, y) for fill in FILLS.values()]
    masks = [shape(x, y) * fill for shape in SHAPES.values() for fill in fills]
    return torch.nn.functional.avg_pool2d(torch.stack(masks), 4)


def _pick(u: Tensor, n: int) -> Tensor:
    return (u * n).long().clamp_(max=n - 1)  # u * n rounds to n for the largest u.


def _zipf(style: Style) -> tuple[Tensor, Tensor]:
    """The icons by rank (int64 [256]) and the cumulative probability up to each rank (float64 [256])."""
    order = draws.uniform(draws.key(0, f"icons of {style.icons}"), torch.arange(len(ICONS)), 1)[:, 0].argsort()
    weight = torch.arange(1, len(ICONS) + 1, dtype=torch.float64) ** -style.zipf
    return order, (weight.cumsum(0) / weight.sum()).clamp_(max=1.0)


def _lookup(grid: Tensor, centre: Tensor, half: Tensor) -> Tensor:
    """Weights [B, pixels, TEXELS] that sample a mask along one axis, 20 times as fast as grid_sample: a triangle as
    wide as the coarser of pixel and texel, which is linear interpolation or its antialiased form."""
    texel = (grid - centre) / half * (TEXELS / 2) + (TEXELS - 1) / 2  # [B, pixels], in units of texels.
    width = (TEXELS / len(grid) / half).clamp(min=1.0)[:, :, None]  # Texels per pixel.
    return (1 - (texel[:, :, None] - torch.arange(TEXELS)).abs() / width).clamp_(min=0) / width
