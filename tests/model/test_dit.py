import pytest
import torch

from ditscale.flops import Shape
from ditscale.model.dit import DiT, sine_positions, time_features

SHAPES = {design: Shape(design, 2, 32, 8, 4, True, 64, 16, 27, 4, 40, 0) for design in ("incontext", "crossattention")}


def inputs(batch=3):
    g = torch.Generator().manual_seed(0)
    return (
        torch.randn(batch, 3, 12, 12, generator=g),
        torch.rand(batch, generator=g),
        torch.randint(0, 40, (batch, 4), generator=g),
    )


def awake(shape):
    """A model whose final layer is not zero."""
    torch.manual_seed(1)
    model = DiT(shape)
    torch.nn.init.normal_(model.final.weight, std=0.1)
    return model


@pytest.mark.parametrize("design", SHAPES)
def test_starts_at_zero_and_keeps_shape(design):
    x, t, text = inputs()
    out = DiT(SHAPES[design])(x, t, text)
    assert out.shape == x.shape and not out.any()


@pytest.mark.parametrize("design", SHAPES)
def test_output_depends_on_all_inputs_and_only_on_its_own_sample(design):
    model, (x, t, text) = awake(SHAPES[design]), inputs()
    out = model(x, t, text)
    for k, other in enumerate([(x.flip(-1), t, text), (x, 1 - t, text), (x, t, (text + 1) % 40)]):
        assert not torch.allclose(model(*other), out), k
    torch.testing.assert_close(model(x[1:2], t[1:2], text[1:2]), out[1:2])


@pytest.mark.parametrize("design", SHAPES)
def test_every_parameter_learns(design):
    model, (x, t, text) = awake(SHAPES[design]), inputs(16)
    model(x, t, text).square().mean().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.abs().sum() > 0, name


def test_patches_are_squares_of_the_picture():
    model = DiT(SHAPES["incontext"])
    x = torch.arange(3 * 144.0).view(1, 3, 12, 12)
    patches = model.patchify(x)
    assert torch.equal(patches[0, 5].view(3, 3, 3), x[0, :, 3:6, 3:6].permute(1, 2, 0))
    assert torch.equal(model.unpatchify(patches, x.shape), x)


def test_features():
    f = time_features(torch.tensor([0.0, 1.0]), 64)
    assert f.shape == (2, 64) and torch.equal(f[0], torch.cat([torch.zeros(32), torch.ones(32)]))
    p = sine_positions(16, 32)
    assert p.shape == (16, 32) and torch.cdist(p, p).fill_diagonal_(9).min() > 0.5  # places can be told apart


def test_text_as_features():
    shape = Shape("crossattention", 1, 32, 8, 4, False, 64, 16, 27, 4, 0, 20)
    assert DiT(shape)(torch.randn(2, 3, 12, 12), torch.rand(2), torch.randn(2, 4, 20)).shape == (2, 3, 12, 12)
