import pytest
import torch

from ditscale.data.miniature_scenes import COLOURS, ICONS, PLACES, SHAPES, STYLES, WORDS, Scenes, _zipf, icon_masks
from ditscale.errors import UserError

INDEX = torch.tensor([0, 1, 7, 12345, 2**33])


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("objects", [1, 2])
def test_a_scene_is_a_pure_function_of_seed_and_index(style, objects):
    scenes = Scenes(size=8, objects=objects, seed=3, style=style)
    image, text = scenes.batch(INDEX)
    order = torch.tensor([4, 2, 0, 3, 1])
    shuffled, shuffled_text = Scenes(size=8, objects=objects, seed=3, style=style).batch(INDEX[order])
    torch.testing.assert_close(shuffled, image[order], rtol=0, atol=1e-6)
    assert torch.equal(shuffled_text, text[order])
    for k, i in enumerate(INDEX):  # one at a time
        alone, alone_text = scenes.batch(i[None])
        torch.testing.assert_close(alone[0], image[k], rtol=0, atol=1e-6)
        assert torch.equal(alone_text[0], text[k])
    other, other_text = Scenes(size=8, objects=objects, seed=4, style=style).batch(INDEX)
    assert not torch.equal(other_text, text) and not torch.equal(other, image)


def test_scenes_are_the_same_for_ever():
    scenes = Scenes(size=12, seed=0)
    image, text = scenes.batch(INDEX)
    assert [scenes.caption(row) for row in text] == GOLDEN_CAPTIONS
    torch.testing.assert_close(image.mean((1, 2, 3)), torch.tensor(GOLDEN_MEAN), rtol=0, atol=1e-5)
    torch.testing.assert_close(image.square().mean((1, 2, 3)), torch.tensor(GOLDEN_SQUARE), rtol=0, atol=1e-5)


@pytest.mark.parametrize("style", STYLES)
def test_shape_range_and_spread(style):
    scenes = Scenes(size=10, style=style)
    image, text = scenes.batch(torch.arange(2048))
    assert image.shape == (2048, scenes.channels, scenes.resolution, scenes.resolution) and image.dtype == torch.float32
    assert text.shape == (2048, scenes.text_length) and text.dtype == torch.int64
    assert text.min() > 0 and text.max() < scenes.text_vocab
    assert image.abs().max() < 1.5 and image.abs().mean() > 0.4 and image.mean().abs() < 0.1


@pytest.mark.parametrize("style", STYLES)
def test_every_icon_shows(style):
    scenes = Scenes(size=12, objects=1, style=style)
    image, text = scenes.batch(torch.arange(4096))
    contrast = (image - image.mean((2, 3), keepdim=True)).abs().amax((1, 2, 3))
    assert contrast.min() > 0.1
    assert len(text[:, 1].unique()) == len(SHAPES)
    assert (text[:, 0] != text[:, -1]).all()  # never red on red


def test_icons_differ():
    masks = icon_masks().flatten(1)
    assert masks.min() >= 0 and masks.max() <= 1
    distance = torch.cdist(masks, masks) + 1e3 * torch.eye(len(masks))
    assert distance.min() > 0.3  # the nearest: glowing disc and glowing square


@pytest.mark.parametrize("objects", [1, 2])
def test_captions_are_the_words_of_the_ids(objects):
    """Colour, shape and place of each icon, then the ground."""
    scenes = Scenes(objects=objects)
    slots = [set(COLOURS), set(SHAPES), set(PLACES)] * objects + [set(COLOURS)]
    for row in scenes.batch(torch.arange(300))[1]:
        words = [WORDS[i] for i in row]
        assert all(word in slot for word, slot in zip(words, slots, strict=True))
        icons = [f"a {' '.join(words[3 * i : 3 * i + 3])}" for i in range(objects)]
        assert scenes.caption(row) == f"{' and '.join(icons)} on {words[-1]}"
    assert scenes.caption(torch.zeros(scenes.text_length, dtype=torch.int64)) == ""
    assert len(set(WORDS)) == len(WORDS) == scenes.text_vocab


def test_out_of_domain_shares_words_and_shifts_habits():
    (order, _), (other, _) = (_zipf(STYLES[s]) for s in ("scenes", "scenes-ood"))
    assert order.sort()[0].equal(torch.arange(len(ICONS))) and (order == other).float().mean() < 0.1
    (image, text), (image_ood, text_ood) = (Scenes(style=s).batch(torch.arange(4096)) for s in STYLES)
    assert text.unique().equal(text_ood.unique())
    assert not torch.equal(text, text_ood) and abs(image.std() - image_ood.std()) < 0.1


@pytest.mark.parametrize("bad", [dict(style="scene"), dict(size=2), dict(objects=0)])
def test_bad_parameters_are_refused(bad):
    with pytest.raises(UserError):
        Scenes(**bad)


GOLDEN_CAPTIONS = [
    "a green triangle lower right and a white diamond right on black",
    "a black cross left and a white ring bottom on blue",
    "a white house lower right and a white house left on cyan",
    "a yellow diamond left and a white moon lower right on green",
    "a magenta hourglass lower left and a yellow moon right on cyan",
]
GOLDEN_MEAN = [-0.600916, -0.151777, 0.318432, -0.14998, 0.15136]
GOLDEN_SQUARE = [0.534049, 0.412098, 0.442116, 0.491819, 0.383385]
