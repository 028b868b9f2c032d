"""Contract checks of a source, with a sentence to its author for each problem."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from statistics import median
from typing import Any, Final

import numpy as np

from flowercnn._utils import check_count
from flowercnn.errors import ConfigurationError, FlowerCNNError, few
from flowercnn.preprocessing import decode_image, read_content
from flowercnn.sources import DataSource, ImageInput, Sample, declared_class_names

__all__ = ["check_source", "source_problems"]

_FEW: Final = 3
_OK: Final = "ok "
_THREADS: Final = 8
_MAX_PIXELS: Final = 178_956_970  # Pillow's own limit
_SLOW_PER_SAMPLE: Final = 0.001  # seconds; a folder takes a hundredth of it
_NOTICEABLE: Final = 1.0  # seconds
_MIN_TIMED: Final = 4  # samples
_ACCESSES: Final = 5  # to class_names: a random order can repeat


def check_source(source: DataSource, *, images: int = 32) -> None:
    """Check that a source keeps its contract.

    The source is listed four times; some images are read and decoded several times, by one thread
    and by eight. Checks:

    - Iteration can be repeated, also twice at once, and yields `Sample` objects with the same keys,
      labels, groups and splits in the same order. Keys are unique.
    - ``class_names``, if defined, contains every label and is the same at each access;
      ``len()``, if supported, is the number of samples.
    - Listing takes less than a millisecond per sample, as it opens no image.
    - An image can be read, decoded, read again with the same result, and read by several threads.

    Args:
        source: The source, with real but little data.
        images: Number of images, evenly spread, whose content is checked; at least 1.

    Raises:
        ConfigurationError: If ``images`` is not a whole number of at least 1.
        AssertionError: If the source breaks the contract, with a sentence for each problem.

    Example:
        >>> from flowercnn import SyntheticFlowers
        >>> check_source(SyntheticFlowers(per_class=2, num_classes=2))
    """
    problems = source_problems(source, images=images)
    if problems:
        title = f"{type(source).__name__} does not keep the contract of a source:"
        raise AssertionError("\n- ".join([title, *problems]))


def source_problems(source: DataSource, *, images: int = 32) -> list[str]:
    """Return the problems of a source, a sentence each; see `check_source`."""
    images = check_count("images", images)
    if isinstance(source, (str, bytes)) or not isinstance(source, DataSource):
        return [
            f"It has no __iter__ method that yields samples. Received: {type(source).__name__}."
        ]
    try:
        if iter(source) is source:
            once = "It is an iterator: it can be iterated only once."
            return [f"{once} Write __iter__ as a generator of a class."]
        samples, pauses = _listed(source)
    except Exception as error:  # noqa: BLE001 - the author needs a sentence, whatever is raised
        return [f"Iterating over it failed: {_described(error)}"]
    problems = list(_problems_of_samples(samples))
    if problems:
        return problems  # other checks need samples
    spread = np.unique(np.linspace(0, len(samples) - 1, images).astype(int))
    chosen = [samples[index] for index in spread]
    return [
        *_problems_of_listing(source, samples, pauses),
        *_problems_of_declarations(source, samples),
        *_problems_of_images(chosen),
    ]


def _listed(source: DataSource) -> tuple[list[Sample], list[float]]:
    """Return the samples, and the seconds that passed before each."""
    samples, pauses = [], []
    before = time.perf_counter()
    for sample in source:
        now = time.perf_counter()
        samples.append(sample)
        pauses.append(now - before)
        before = now
    return samples, pauses


def _problems_of_samples(samples: Sequence[Any]) -> Iterator[str]:
    if not samples:
        yield "It yields no samples. Check it with some data."
    others = [sample for sample in samples if not isinstance(sample, Sample)]
    if others:
        received = f"{type(others[0]).__name__} {repr(others[0])[:100]}"
        yield f"It must yield flowercnn.Sample(key, label, image). Received: {received}."


def _problems_of_listing(
    source: DataSource, samples: Sequence[Sample], pauses: Sequence[float]
) -> Iterator[str]:
    keys = [sample.key for sample in samples]
    repeated = [f"{key!r} ({n} times)" for key, n in Counter(keys).items() if n > 1]
    if repeated:
        yield f"Every key must come once. Received: {few(repeated, _FEW)}."
    try:
        again, pauses_again = _listed(source)
        together = [sample for pair in zip_longest(source, source) for sample in pair]
    except Exception as error:  # noqa: BLE001 - see above
        yield f"Iterating over it again failed: {_described(error)}"
        return
    # The faster of two listings, sample by sample, as other work on the machine slows some.
    yield from _problems_of_speed(list(map(min, pauses, pauses_again)))
    keys_again = [sample.key for sample in again]
    keys_together = [None if sample is None else sample.key for sample in together]
    if keys_again == keys and keys_together != [key for key in keys for _ in range(2)]:
        yield "Two iterations at once disturb each other: keep their state in local variables."
    if len(again) != len(samples):
        yield f"A second iteration gives {len(again)} samples instead of {len(samples)}."
    elif sorted(keys_again) != sorted(keys):
        new = few(sorted(set(keys_again) - set(keys)), _FEW)
        change = f"The keys change from one iteration to the next: the second has {new}."
        yield f"{change} Derive them from the data."
    elif keys_again != keys:
        yield "The order changes from one iteration to the next. Sort what you list."
    before, after = _by_key(samples), _by_key(again)
    pairs = [(place[0], before[place], after[place]) for place in after if place in before]
    for name in ("label", "group", "split"):
        changed = [key for key, one, two in pairs if getattr(one, name) != getattr(two, name)]
        if changed:
            yield f"The {name} of {few(changed, _FEW)} changes from one iteration to the next."


def _by_key(samples: Sequence[Sample]) -> dict[tuple[str, int], Sample]:
    """Samples by key and its occurrence, as keys can be repeated (another check's problem)."""
    counts: Counter[str] = Counter()
    places = {}
    for sample in samples:
        places[sample.key, counts[sample.key]] = sample
        counts[sample.key] += 1
    return places


def _problems_of_speed(pauses: Sequence[float]) -> Iterator[str]:
    """Slow samples, or a slow listing; a first request to a server can take longer."""
    seconds, count = sum(pauses), len(pauses)
    slow_each = count >= _MIN_TIMED and median(pauses[1:]) > _SLOW_PER_SAMPLE
    if slow_each or seconds > max(_NOTICEABLE, _SLOW_PER_SAMPLE * count):
        yield (
            f"Listing is slow: {seconds:.2g} s for {count} samples. Do not open or load images in "
            "__iter__; give their path, or a function that returns their bytes."
        )


def _problems_of_declarations(source: DataSource, samples: Sequence[Sample]) -> Iterator[str]:
    labels = {sample.label for sample in samples if sample.label is not None}
    yield from _problems_of_class_names(source, labels)
    try:
        length = len(source)  # type: ignore[arg-type]  # it is optional
    except TypeError:
        return
    except Exception as error:  # noqa: BLE001 - see above
        yield f"len() failed: {_described(error)}"
        return
    if length != len(samples):
        yield f"len() says {length}, but there are {len(samples)} samples."


def _problems_of_class_names(source: DataSource, labels: set[str]) -> Iterator[str]:
    try:
        if hasattr(type(source), "class_names"):
            getattr(source, "class_names")  # noqa: B009 - hasattr would hide an AttributeError in it
        accesses = [declared_class_names(source) for _ in range(_ACCESSES)]
    except ConfigurationError as error:
        yield str(error)
        return
    except Exception as error:  # noqa: BLE001 - see above
        yield f"class_names failed: {_described(error)}"
        return
    names = accesses[0]
    other = next((each for each in accesses if each != names), names)
    if other != names:
        received = ", then ".join(few(each or ("None",), _FEW) for each in (names, other))
        yield (
            f"class_names must be the same at each access. Received: {received}. "
            "Keep a list or tuple of them, such as sorted(...)."
        )
    elif names is not None and labels - set(names):
        missing = few(sorted(labels - set(names)), _FEW)
        yield f"class_names must have every label. Missing: {missing}."


def _problems_of_images(samples: Sequence[Sample]) -> Iterator[str]:
    digests = [
        (sample, _digest(sample.image)) for sample in samples
    ]  # a list: keys can be repeated
    bad = [(sample, digest) for sample, digest in digests if not digest.startswith(_OK)]
    for sample, reason in bad[:_FEW]:
        yield f"The image of {sample.key!r} cannot be used: {reason}"
    if len(bad) > _FEW:
        yield f"{len(bad)} of {len(samples)} images cannot be used."
    good = [(sample, digest) for sample, digest in digests if digest.startswith(_OK)]
    changed = [sample.key for sample, digest in good if _digest(sample.image) != digest]
    if changed:
        yield (
            f"The image of {few(changed, _FEW)} cannot be read twice with the same result: an open "
            "file or stream is used up after the first time, and images must not change at random."
        )
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        repeated = good * -(-4 * _THREADS // max(1, len(good)))
        results = pool.map(lambda pair: (pair[0].key, _digest(pair[0].image) == pair[1]), repeated)
        disturbed = sorted({key for key, is_same in results if not is_same})
    if disturbed:
        yield (
            f"Read by several threads at once, the image of {few(disturbed, _FEW)} differs or "
            "fails: do not share an open file between images, or guard it with a threading.Lock."
        )


def _digest(image: ImageInput) -> str:
    """Return ``ok`` and a hash of the pixels, or the reason why the image cannot be used."""
    try:
        content = read_content(image)
        decoded = decode_image(content, background=(255, 255, 255), max_pixels=_MAX_PIXELS)
    except FlowerCNNError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - see above
        return _described(error)
    pixels = decoded.tobytes() + repr(decoded.size).encode()
    return _OK + hashlib.blake2b(pixels, digest_size=16).hexdigest()


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
