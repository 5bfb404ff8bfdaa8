import pytest
import torch

from ditscale.data.scenes import ICONS, STYLES, WORDS, Scenes, icon_masks
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
    assert image.shape == (2048, scenes.channels, scenes.height, scenes.width) and image.dtype == torch.float32
    assert text.shape == (2048, scenes.text_length) and text.dtype == torch.int64
    assert text.min() > 0 and text.max() < scenes.text_vocab
    assert image.abs().max() < 1.5 and image.abs().mean() > 0.4 and image.mean().abs() < 0.1


@pytest.mark.parametrize("style", STYLES)
def test_every_icon_shows(style):
    scenes = Scenes(size=8, style=style)
    image, text = scenes.batch(torch.arange(4096))
    contrast = (image - image.mean((2, 3), keepdim=True)).abs().amax((1, 2, 3))
    assert contrast.min() > 0.1
    assert len(text[:, 1].unique()) > 0.9 * len(ICONS)
    assert (text[:, 0] != text[:, -1]).all()  # never red on red


def test_icons_differ():
    masks = icon_masks().flatten(1)
    assert masks.min() >= 0 and masks.max() <= 1
    distance = torch.cdist(masks, masks) + 1e3 * torch.eye(len(masks))
    assert distance.min() > 0.5


@pytest.mark.parametrize("objects", [1, 2])
def test_captions_round_trip(objects):
    scenes = Scenes(objects=objects)
    for row in scenes.batch(torch.arange(300))[1]:
        assert torch.equal(scenes.encode(scenes.caption(row)), row)
    empty = torch.zeros(scenes.text_length, dtype=torch.int64)
    assert scenes.caption(empty) == "" and torch.equal(scenes.encode(""), empty)
    assert len(set(WORDS)) == len(WORDS) == scenes.text_vocab


@pytest.mark.parametrize(
    "caption, message",
    [
        ("a rde plain star top on blue", "unknown words: rde (did you mean 'red'?)"),
        ("a plain star red top on blue", "out of order"),
        ("a red plain star top", "out of order"),
    ],
)
def test_bad_captions_are_explained(caption, message):
    with pytest.raises(UserError, match="a .* on") as error:
        Scenes().encode(caption)
    assert message in str(error.value)


def test_out_of_domain_shares_words_and_shifts_habits():
    index = torch.arange(8192)
    (image, text), (other, other_text) = (Scenes(size=8, style=s).batch(index) for s in ("scenes", "scenes-ood"))
    count = torch.stack([t[:, 1].bincount(minlength=len(WORDS)) for t in (text, other_text)]) / len(index)
    assert 0.3 < (count[0] - count[1]).abs().sum() / 2 < 0.9  # other icons are the frequent ones, all occur
    assert abs(image.std() - other.std()) < 0.1
    assert Scenes(style="scenes").text_vocab == Scenes(style="scenes-ood").text_vocab


@pytest.mark.parametrize("bad", [dict(style="scene"), dict(size=2), dict(objects=0)])
def test_bad_parameters_are_refused(bad):
    with pytest.raises(UserError):
        Scenes(**bad)


GOLDEN_CAPTIONS = [
    "a green plain saltire lower right on black",
    "a black fading bow left on blue",
    "a white sinking square lower right on cyan",
    "a yellow dotted moon left on green",
    "a magenta sinking hourglass lower left on cyan",
]
GOLDEN_MEAN = [-0.709101, -0.179463, 0.237295, -0.224619, 0.122127]
GOLDEN_SQUARE = [0.570572, 0.469051, 0.48064, 0.559911, 0.419091]
