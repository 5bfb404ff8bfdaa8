"""Exact FLOPs and parameters of a Diffusion Transformer, term by term, from its shape alone (no torch).

A product of an [a, b] by a [b, c] matrix counts 2abc FLOPs; norms, activations and softmax count nothing. The backward
pass computes a gradient for the weight and one for the input, each at the cost of the forward pass, but none for the
network's inputs (patches, time features, text features). The sums equal torch's FlopCounterMode to the last FLOP.
Letters: S sequence length of the blocks, I image tokens, T text tokens, W width, P values of a patch."""

from dataclasses import dataclass
from typing import NamedTuple

from .config import Data, Design, width_problem
from .errors import UserError


@dataclass(frozen=True)
class Shape:
    """All that decides a model's parameters and FLOPs. Raises UserError for a shape that no model can have."""

    design: str  # "incontext" or "crossattention"
    depth: int
    width: int
    head_size: int
    mlp_ratio: int
    qk_norm: bool
    time_features: int
    image_tokens: int
    patch_values: int
    text_length: int
    text_vocab: int
    text_dim: int

    def __post_init__(self):
        if problem := width_problem(self.width, self.head_size):
            raise UserError(f"width {problem}")
        if self.depth < 1:
            raise UserError(f"depth {self.depth} is not a model; at least 1")

    @property
    def tokens_per_image(self) -> int:
        """Tokens that pass through the blocks for one image: D counts these."""
        return self.image_tokens + (1 + self.text_length if self.design == "incontext" else 0)


def shape_of(design: Design, data: Data, depth: int, width: int) -> Shape:
    """The shape of a design of given size on a data set."""
    return Shape(
        design=design.name, depth=depth, width=width, head_size=design.head_size, mlp_ratio=design.mlp_ratio,
        qk_norm=design.qk_norm, time_features=design.time_features,
        image_tokens=(data.resolution // design.patch) ** 2, patch_values=design.patch**2 * data.channels,
        text_length=data.text_length, text_vocab=data.text_vocab, text_dim=data.text_dim,
    )  # fmt: skip


class Term(NamedTuple):
    """One kind of matrix product in one image's pass: `forward` and `backward` in FLOPs per image."""

    name: str
    forward: int
    backward: int


def terms(s: Shape) -> list[Term]:
    """The matrix products of one image, one Term a kind, blocks summed over depth."""
    I, T, W, P = s.image_tokens, s.text_length, s.width, s.patch_values
    S, context = s.tokens_per_image, 1 + s.text_length
    products: list[Term] = []

    def linear(name: str, rows: int, n_in: int, n_out: int, repeat: int = 1, input_gradient: bool = True):
        forward = 2 * rows * n_in * n_out * repeat
        products.append(Term(name, forward, forward * (2 if input_gradient else 1)))

    def attention(name: str, queries: int, keys: int):
        forward = 2 * (2 * queries * keys * W) * s.depth  # Queries times keys, then weights times values.
        products.append(Term(name, forward, 2 * forward))

    linear("patch embedding", I, P, W, input_gradient=False)
    linear("time MLP in", 1, s.time_features, W, input_gradient=False)
    linear("time MLP out", 1, W, W)
    if s.text_dim:
        linear("text projection", T, s.text_dim, W, input_gradient=False)
    linear("self-attention qkv", S, W, 3 * W, s.depth)
    attention("self-attention", S, S)
    linear("self-attention out", S, W, W, s.depth)
    if s.design == "crossattention":
        linear("cross-attention q", I, W, W, s.depth)
        linear("cross-attention kv", context, W, 2 * W, s.depth)
        attention("cross-attention", I, context)
        linear("cross-attention out", I, W, W, s.depth)
    linear("MLP up", S, W, s.mlp_ratio * W, s.depth)
    linear("MLP down", S, s.mlp_ratio * W, W, s.depth)
    linear("final", I, W, P)
    return products


def training_flops(s: Shape) -> int:
    """FLOPs of one image's forward and backward pass."""
    return sum(t.forward + t.backward for t in terms(s))


def n_params(s: Shape) -> dict[str, int]:
    """Parameters: `matmul`, the weights of all matrix products; `blocks`, those inside the blocks only; `total`, all
    with the embedding table, positions, biases and norm scales."""
    W, P = s.width, s.patch_values
    cross = 4 * W * W if s.design == "crossattention" else 0
    block = s.depth * (4 * W * W + cross + 2 * s.mlp_ratio * W * W)
    edges = P * W + s.time_features * W + W * W + s.text_dim * W + W * P
    biases = 3 * W + (W if s.text_dim else 0) + P  # Of patch, time MLP, text projection, final.
    embeddings = (s.text_vocab + s.image_tokens + s.text_length) * W  # Of words and positions.
    norms_of_block = (3 if cross else 2) * W + (2 * s.head_size * (2 if cross else 1) if s.qk_norm else 0)
    norms = s.depth * norms_of_block + (2 * W if cross else W)  # Outside: before the final layer, and on text.
    return {"blocks": block, "matmul": block + edges, "total": block + edges + biases + embeddings + norms}
