"""Pictures from latents: the decoder of a VAE, read from the files that its authors' tools write.

These are a directory with config.json and diffusion_pytorch_model.safetensors, as diffusers' AutoencoderKL writes them:
Stable Diffusion 1 to 3, SDXL, FLUX. The network is that of Rombach et al. (arXiv 2112.10752, appendix G.1), with the
module names of the file.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError
from .weights import DECODER

CONFIG, WEIGHTS = DECODER
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# Names in files of 2022, and what they are today.
OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
BATCH = 16  # Latents decoded at once. A picture of 512 x 512 takes half a gigabyte of activations.


class VAEDecoder(nn.Module):
    """latents [B, C, R, R], as the VAE gives them -> pictures float32 [B, 3, fR, fR] in about [-1, 1]."""

    def __init__(
        self, latent_channels: int, widths: list[int], layers: int, groups: int, attention: bool, post_quant: bool
    ):
        super().__init__()
        self.post_quant_conv = nn.Conv2d(latent_channels, latent_channels, 1) if post_quant else nn.Identity()
        self.decoder = _Decoder(latent_channels, widths[::-1], layers + 1, groups, attention)
        self.factor = 2 ** (len(widths) - 1)
        self.full_name = "vae"

    @torch.no_grad()
    def forward(self, latents: Tensor) -> Tensor:
        weight = self.decoder.conv_in.weight
        batches = latents.to(weight.device, weight.dtype).split(BATCH)
        return torch.cat([self.decoder(self.post_quant_conv(batch)) for batch in batches])


class _Decoder(nn.Module):
    def __init__(self, latent_channels: int, widths: list[int], layers: int, groups: int, attention: bool):
        super().__init__()
        self.conv_in = _conv(latent_channels, widths[0])
        self.mid_block = _Middle(widths[0], groups, attention)
        last = len(widths) - 1
        self.up_blocks = nn.Sequential(
            *(_Up(widths[max(i - 1, 0)], width, layers, groups, i == last) for i, width in enumerate(widths))
        )
        self.conv_norm_out = _norm(groups, widths[-1])
        self.conv_out = _conv(widths[-1], 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up_blocks(self.mid_block(self.conv_in(x)))
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class _Middle(nn.Module):
    def __init__(self, width: int, groups: int, attention: bool):
        super().__init__()
        self.resnets = nn.ModuleList([_Residual(width, width, groups), _Residual(width, width, groups)])
        self.attentions = nn.Sequential(*([_Attention(width, groups)] if attention else []))

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions(self.resnets[0](x)))


class _Up(nn.Module):
    """Residual blocks, then upsampling to twice the side, except in the last."""

    def __init__(self, width_in: int, width: int, layers: int, groups: int, last: bool):
        super().__init__()
        self.resnets = nn.Sequential(*(_Residual(width if i else width_in, width, groups) for i in range(layers)))
        self.upsamplers = nn.Sequential(*([] if last else [_Upsample(width)]))

    def forward(self, x: Tensor) -> Tensor:
        return self.upsamplers(self.resnets(x))


class _Upsample(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv = _conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class _Residual(nn.Module):
    def __init__(self, width_in: int, width: int, groups: int):
        super().__init__()
        self.norm1, self.conv1 = _norm(groups, width_in), _conv(width_in, width)
        self.norm2, self.conv2 = _norm(groups, width), _conv(width, width)
        self.conv_shortcut = nn.Identity() if width == width_in else nn.Conv2d(width_in, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return self.conv_shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class _Attention(nn.Module):
    """Attention of one head over all positions."""

    def __init__(self, width: int, groups: int):
        super().__init__()
        self.group_norm = _norm(groups, width)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        h = self.group_norm(x).flatten(2).transpose(1, 2)
        h = F.scaled_dot_product_attention(self.to_q(h), self.to_k(h), self.to_v(h))
        return x + self.to_out[0](h).transpose(1, 2).reshape(x.shape)


def _conv(width_in: int, width: int) -> nn.Conv2d:
    return nn.Conv2d(width_in, width, 3, padding=1)


def _norm(groups: int, width: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, width, eps=1e-6)


def load_decoder(directory: Path | str, device: torch.device) -> VAEDecoder:
    """The decoder of the VAE in a directory, in fp32; its `full_name` has the hash of its weights. Raises UserError
    where there is none, or another network."""
    directory = Path(directory)
    config = check_decoder(directory)
    decoder = VAEDecoder(
        config["latent_channels"],
        config["block_out_channels"],
        config.get("layers_per_block", 1),
        config.get("norm_num_groups", 32),
        config.get("mid_block_add_attention", True), config.get("use_post_quant_conv", True),
    )  # fmt: skip
    weights = {}
    for name, tensor in read_safetensors(directory / WEIGHTS, ("decoder.", "post_quant_conv.")).items():
        for old, new in OLD_NAMES.items():
            name = name.replace(old, new)
        # Some files have the matrices of attention as convolutions of 1 x 1.
        linear = ".to_" in name and tensor.dim() == 4
        weights[name] = tensor[:, :, 0, 0] if linear else tensor
    try:
        decoder.load_state_dict(weights)
    except RuntimeError as error:
        mismatch = "".join(str(error).splitlines()[1:2]).strip()
        raise UserError(f"{directory}: {WEIGHTS} does not fit {CONFIG}: {mismatch}") from None
    sha256 = hashlib.sha256()
    for tensor in weights.values():
        sha256.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    decoder.full_name = f"{directory.name} {sha256.hexdigest()[:12]}"
    return decoder.float().eval().requires_grad_(False).to(device)


def check_decoder(directory: Path) -> dict:
    """The VAE's config.json. Raises UserError where there is no decoder, or another network than this one."""
    for name in DECODER:
        if not (directory / name).is_file():
            raise UserError(
                f"decoder {directory}: there is no {name} in it; name the directory of a VAE in the format of "
                "diffusers' AutoencoderKL"
            )
    try:
        config = json.loads((directory / CONFIG).read_text())
        config["latent_channels"], config["block_out_channels"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"decoder {directory}: its {CONFIG} is not that of an AutoencoderKL") from None
    for key, only in (("act_fn", "silu"), ("out_channels", 3), ("up_block_types", "UpDecoderBlock2D")):
        values = config.get(key, only)
        for value in values if isinstance(values, list) else [values]:
            if value != only:
                raise UserError(
                    f"decoder {directory}: {key} is {value!r} in its {CONFIG}; ditscale reads VAEs with {only!r} only"
                )
    return config


def read_safetensors(path: Path, prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors whose names begin with one of the prefixes. The format is eight bytes of length, a JSON header of
    that length, and the tensors' bytes: it cannot contain code."""
    try:
        with open(path, "rb") as file:
            length, size = int.from_bytes(file.read(8), "little"), path.stat().st_size
            if length > size:
                raise ValueError
            entries, start = json.loads(file.read(length)), 8 + length
            entries.pop("__metadata__", None)
            tensors = {}
            for name, entry in entries.items():
                begin, end = entry["data_offsets"]
                dtype = DTYPES[entry["dtype"]]
                if start + end > size or end - begin != math.prod(entry["shape"]) * dtype.itemsize:
                    raise ValueError
                if name.startswith(prefixes):
                    file.seek(start + begin)
                    values = torch.frombuffer(bytearray(file.read(end - begin)), dtype=dtype)
                    tensors[name] = values.view(entry["shape"])
            return tensors
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: is truncated or not a safetensors file") from None
