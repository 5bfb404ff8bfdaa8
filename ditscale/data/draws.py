"""Random numbers as a pure function of (seed, stream, position): nothing here has a state. The generator is SplitMix64
(Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014) as a counter: word k of position i
is mix(key + (i * 2^24 + k) * gamma), in torch's int64, whose products wrap: equal on every device."""

import hashlib
import math

import torch
from torch import Tensor

GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)  # The odd integer nearest 2^64 / golden ratio, as a signed 64-bit number.
MIX_1, MIX_2 = 0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64)
WORDS = 1 << 24  # Words that one position may use.


def key(seed: int, stream: str) -> int:
    """A signed 64-bit key for a named stream ("noise", "timestep", ...) of a seed."""
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


def words(key: int, position: Tensor, n: int) -> Tensor:
    """64 random bits for each position (int64 [B]) and k in 0..n-1: int64 [B, n]."""
    if n > WORDS:
        raise ValueError(f"{n} words for a position; at most {WORDS}")
    k = torch.arange(n, dtype=torch.int64, device=position.device)
    z = (position[:, None] * WORDS + k) * GAMMA + key
    z = (z ^ _shift(z, 30)) * MIX_1
    z = (z ^ _shift(z, 27)) * MIX_2
    return z ^ _shift(z, 31)


def uniform(key: int, position: Tensor, n: int) -> Tensor:
    """Uniform in (0, 1), float32 [B, n], 24 bits each, never 0 and never 1."""
    return (_shift(words(key, position, n), 40).float() + 0.5) * 2.0**-24


def normal(key: int, position: Tensor, n: int) -> Tensor:
    """Standard normal, float32 [B, n], by Box and Muller (1958): two values from each word, tails to 6.7 sigma."""
    w = words(key, position, (n + 1) // 2)
    radius = ((_shift(w, 32).float() + 0.5) * 2.0**-32).log().mul_(-2.0).clamp_(min=0).sqrt()
    angle = (w & 0xFFFFFFFF).float() * (2 * math.pi * 2.0**-32)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :n]


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch's >> on int64 copies the sign bit."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
