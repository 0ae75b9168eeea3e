from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtri

from sim import rng

# Random123, tests/kat_vectors: counter, key, result of philox4x32 with 10 rounds.
KNOWN_ANSWERS = [
    (
        (0x00000000, 0x00000000, 0x00000000, 0x00000000),
        (0x00000000, 0x00000000),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN_ANSWERS)
def test_philox_gives_the_published_known_answers(
    counter: tuple[int, ...], key: tuple[int, int], result: tuple[int, ...]
) -> None:
    whole_key = np.uint64(key[0] | key[1] << 32)
    assert tuple(rng.philox(*(np.uint64(word) for word in counter), whole_key)) == result


def test_filled_words_are_the_words_of_their_places() -> None:
    key = np.uint64(rng.key_of(3, "campaign", "c"))
    out = np.empty(64, dtype=np.uint64)
    rng.fill_words(out, 16, 128, 5, rng.VALUE, key)
    assert out.tolist() == [rng.word(4 * 128 + place, 5, rng.VALUE, key) for place in range(64)]


def test_normals_are_the_inverse_of_the_distribution_function() -> None:
    words = np.concatenate((np.arange(4096), np.linspace(0, 2**32 - 1, 9973), 2**32 - 1 - np.arange(4096)))
    words = words.astype(np.uint64)
    out, tail, place = np.empty(words.size), np.empty(words.size), np.empty(words.size, dtype=np.int64)
    rng.to_normals(words, out, words.size, tail, place)
    uniforms = (words.astype(np.float64) + 0.5) * 2.0**-32
    np.testing.assert_allclose(out, ndtri(uniforms), rtol=2e-14, atol=1e-15)
    assert out.tolist() == [rng.normal(p) for p in uniforms]
    assert np.abs(out).max() < rng.Z_MAX


def test_keys_differ_by_seed_kind_and_id() -> None:
    keys = {rng.key_of(seed, kind, name) for seed in (0, 1) for kind in ("market", "campaign") for name in ("a", "b")}
    assert len(keys) == 8


def test_uniforms_of_53_bits_do_not_depend_on_the_span_they_are_filled_in() -> None:
    keys = rng.keys_of(1, "market", ["a", "b", "c"])
    whole, part = np.empty((6, 3)), np.empty((2, 1))
    rng.fill_uniforms(whole, keys, 10, rng.ARRIVALS)
    rng.fill_uniforms(part, keys[1:2], 13, rng.ARRIVALS)
    assert part.tolist() == whole[3:5, 1:2].tolist()
    assert len(np.unique(whole)) == whole.size
