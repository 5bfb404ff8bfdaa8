"""Pictures from latents: the decoder of a VAE, read from files of diffusers' AutoencoderKL: Stable Diffusion 1 to 3,
SDXL, FLUX. The network is that of Rombach et al. (arXiv 2112.10752, appendix G.1)."""

import hashlib
import json
import math
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import UserError
from .weights import DECODER

CONFIG, WEIGHTS = DECODER
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# Names in files of 2022, and what they are today.
OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
BATCH = 16  # Latents decoded at once. A picture of 512 x 512 takes half a gigabyte of activations.


class VAEDecoder:
    """latents [B, C, R, R], as the VAE gives them -> pictures float32 [B, 3, fR, fR] in about [-1, 1]. A function of
    the weights by their names in the file; `used` collects the names. full_name: with the weights' hash."""

    def __init__(self, weights: dict[str, Tensor], config: dict, full_name: str):
        self.weights, self.config, self.full_name = weights, config, full_name
        self.used: set[str] = set()

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> Tensor:
        like = self.weights["decoder.conv_in.weight"]
        return torch.cat([self._decode(batch) for batch in latents.to(like.device, like.dtype).split(BATCH)])

    def _decode(self, x: Tensor) -> Tensor:
        n_blocks = len(self.config["block_out_channels"])
        if self.config.get("use_post_quant_conv", True):
            x = self._conv("post_quant_conv", x)
        x = self._residual("decoder.mid_block.resnets.0", self._conv("decoder.conv_in", x))
        if self.config.get("mid_block_add_attention", True):
            x = self._attention("decoder.mid_block.attentions.0", x)
        x = self._residual("decoder.mid_block.resnets.1", x)
        for i in range(n_blocks):
            for k in range(self.config.get("layers_per_block", 1) + 1):
                x = self._residual(f"decoder.up_blocks.{i}.resnets.{k}", x)
            if i < n_blocks - 1:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
                x = self._conv(f"decoder.up_blocks.{i}.upsamplers.0.conv", x)
        return self._conv("decoder.conv_out", F.silu(self._norm("decoder.conv_norm_out", x)))

    def _residual(self, name: str, x: Tensor) -> Tensor:
        h = self._conv(f"{name}.conv1", F.silu(self._norm(f"{name}.norm1", x)))
        h = self._conv(f"{name}.conv2", F.silu(self._norm(f"{name}.norm2", h)))
        return (x if x.shape == h.shape else self._conv(f"{name}.conv_shortcut", x)) + h

    def _attention(self, name: str, x: Tensor) -> Tensor:
        h = self._norm(f"{name}.group_norm", x).flatten(2).transpose(1, 2)
        q, k, v = (F.linear(h, *self._weight_and_bias(f"{name}.to_{part}")) for part in "qkv")
        h = F.linear(F.scaled_dot_product_attention(q, k, v), *self._weight_and_bias(f"{name}.to_out.0"))
        return x + h.transpose(1, 2).reshape(x.shape)

    def _conv(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self._weight_and_bias(name)
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return F.group_norm(x, self.config.get("norm_num_groups", 32), *self._weight_and_bias(name), eps=1e-6)

    def _weight_and_bias(self, name: str) -> tuple[Tensor, Tensor]:
        names = f"{name}.weight", f"{name}.bias"
        self.used.update(names)
        return self.weights[names[0]], self.weights[names[1]]


def load_decoder(directory: Path | str, device: torch.device) -> VAEDecoder:
    """The decoder of the VAE in a directory, in fp32. Raises UserError where there is none, or another network."""
    directory = Path(directory)
    config, weights, sha256 = check_decoder(directory), {}, hashlib.sha256()
    for name, tensor in read_safetensors(directory / WEIGHTS, ("decoder.", "post_quant_conv.")).items():
        for old, new in OLD_NAMES.items():
            name = name.replace(old, new)
        # Some files have the matrices of attention as convolutions of 1 x 1.
        tensor = tensor[:, :, 0, 0] if ".to_" in name and tensor.dim() == 4 else tensor
        sha256.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
        weights[name] = tensor.float().to(device)
    decoder = VAEDecoder(weights, config, f"{directory.name} {sha256.hexdigest()[:12]}")
    try:  # A decoded zero shows whether names and shapes are those of the configuration.
        decoder(torch.zeros(1, config["latent_channels"], 1, 1))
        mismatch = sorted(weights.keys() - decoder.used)
        for i, width in enumerate(reversed(config["block_out_channels"])):
            name = f"decoder.up_blocks.{i}.resnets.0.conv1.weight"
            mismatch += [name] if len(weights[name]) != width else []
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        mismatch = str(error).splitlines()
    if mismatch:
        raise UserError(f"{directory}: {WEIGHTS} does not fit {CONFIG}: {mismatch[0]}")
    return decoder


def check_decoder(directory: Path) -> dict:
    """The VAE's config.json. Raises UserError where there is no decoder, or another network than this one."""
    for name in DECODER:
        if not (directory / name).is_file():
            remedy = "name the directory of a VAE in the format of diffusers' AutoencoderKL"
            raise UserError(f"decoder {directory}: there is no {name} in it; {remedy}")
    try:
        config = json.loads((directory / CONFIG).read_text())
        config["latent_channels"], config["block_out_channels"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"decoder {directory}: its {CONFIG} is not that of an AutoencoderKL") from None
    for key, only in (("act_fn", "silu"), ("out_channels", 3), ("up_block_types", "UpDecoderBlock2D")):
        values = config.get(key, only)
        for value in values if isinstance(values, list) else [values]:
            if value != only:
                other = f"{key} is {value!r} in its {CONFIG}"
                raise UserError(f"decoder {directory}: {other}; ditscale reads VAEs with {only!r} only")
    return config


def read_safetensors(path: Path, prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors of these prefixes. The file is eight bytes of length, a JSON header of that length, and bytes."""
    tensors = {}
    try:
        with open(path, "rb") as file:
            length, size = int.from_bytes(file.read(8), "little"), path.stat().st_size
            if length > size:
                raise ValueError
            entries, start = json.loads(file.read(length)), 8 + length
            entries.pop("__metadata__", None)
            for name, entry in entries.items():
                (begin, end), shape, dtype = entry["data_offsets"], entry["shape"], DTYPES[entry["dtype"]]
                if start + end > size or end - begin != math.prod(shape) * dtype.itemsize:
                    raise ValueError
                if name.startswith(prefixes):
                    file.seek(start + begin)
                    tensors[name] = torch.frombuffer(bytearray(file.read(end - begin)), dtype=dtype).view(shape)
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: is truncated or not a safetensors file") from None
    return tensors


def as_bytes(x_BCRR: Tensor) -> Tensor:
    """Pictures in about [-1, 1] as uint8 [B, C, R, R], at native size. Values beyond black and white are clipped."""
    return ((x_BCRR.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
