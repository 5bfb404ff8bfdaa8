import torch

from ditscale.data import draws


def splitmix64(state: int):
    """The published algorithm, in Python's integers: yields 64-bit words."""
    mask = (1 << 64) - 1
    while True:
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        yield z ^ (z >> 31)


def test_words_are_splitmix64():
    key = draws.key(5, "test")
    generator = splitmix64((key - 0x9E3779B97F4A7C15) & ((1 << 64) - 1))  # word 0 is mix(key)
    expected = [next(generator) for _ in range(50)]
    found = draws.words(key, torch.tensor([0]), 50)[0].tolist()
    assert [w & ((1 << 64) - 1) for w in found] == expected


def test_known_first_output():
    """SplitMix64 seeded with 0 starts with this word in every published implementation."""
    assert next(splitmix64(0)) == 0xE220A8397B1DCDAF


def test_positions_are_independent_of_the_batch():
    key = draws.key(0, "noise")
    whole = draws.normal(key, torch.arange(1000), 33)
    assert torch.equal(whole[[999, 3]], draws.normal(key, torch.tensor([999, 3]), 33))


def test_distributions():
    key = draws.key(1, "moments")
    u = draws.uniform(key, torch.arange(50000), 8).double()
    assert u.min() > 0 and u.max() < 1
    assert abs(u.mean() - 0.5) < 2e-3 and abs(u.var() - 1 / 12) < 5e-4
    z = draws.normal(key, torch.arange(50000), 8).double()
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3)):
        assert abs((z**power).mean() - moment) < 0.05
    assert abs(torch.corrcoef(z.T) - torch.eye(8)).max() < 0.02  # the words of a position
    assert abs(torch.corrcoef(torch.stack([z[:-1, 0], z[1:, 0]]))[0, 1]) < 0.02  # neighbouring positions


def test_streams_differ():
    index = torch.arange(100)
    seen = {
        tuple(draws.words(draws.key(seed, name), index, 1)[:, 0].tolist()) for seed in (0, 1) for name in ("a", "b")
    }
    assert len(seen) == 4
