from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from flowercnn._utils.seeding import check_seed, generator, stable_hash
from flowercnn.errors import ConfigurationError


def test_the_same_address_gives_the_same_numbers() -> None:
    assert np.array_equal(generator(3, "order", 1).random(5), generator(3, "order", 1).random(5))


@pytest.mark.parametrize("other", [(4, "order", 1), (3, "augment", 1), (3, "order", 2)])
def test_another_address_gives_other_numbers(other: tuple[int, str, int]) -> None:
    assert not np.array_equal(generator(3, "order", 1).random(5), generator(*other).random(5))


def test_hashes_are_the_same_in_another_process() -> None:
    code = "from flowercnn._utils.seeding import stable_hash; print(stable_hash(1, 'key', 2))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == stable_hash(1, "key", 2)


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, "0", None, True])
def test_a_seed_is_a_non_negative_int(seed: int) -> None:
    with pytest.raises(ConfigurationError, match="seed must be an int"):
        check_seed(seed)


def test_numpy_integers_are_seeds() -> None:
    assert check_seed(np.int32(5)) == 5
