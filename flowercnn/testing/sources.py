"""What a source must keep to, said in sentences to its author."""

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
_THREADS: Final = 8
_MAX_PIXELS: Final = 178_956_970  # where Pillow itself says that it may be an attack
_SLOW_PER_SAMPLE: Final = 0.001  # seconds; a folder takes a hundredth of it
_NOTICEABLE: Final = 1.0  # seconds
_ENOUGH_TO_TELL: Final = 4  # samples
_ACCESSES: Final = 5  # to class_names: an order at random may be the same a few times


def check_source(source: DataSource, *, images: int = 32) -> None:
    """Raise an error that says everything that is wrong with a source.

    The source is listed four times; some of its pictures are read and decoded several times, by one thread and by
    eight. What is checked:

    - It can be iterated again and again, also twice at once, and gives `Sample` objects with the same keys, labels,
      groups and parts in the same order. No key comes twice.
    - ``class_names``, if there is one, has every label and is the same at each access; ``len()``, if it works, is the
      number of samples.
    - Listing takes less than a millisecond per sample: it opens no picture.
    - A picture can be read, decoded, read again with the same result, and read by several threads at once.

    Args:
        source: What to check; give it real but small data.
        images: Of how many pictures, evenly spread, the content is checked; at least 1.

    Raises:
        ConfigurationError: If ``images`` is no whole number from 1.
        AssertionError: If anything is wrong, with a sentence for each thing.

    Example:
        >>> from flowercnn import SyntheticFlowers
        >>> check_source(SyntheticFlowers(per_class=2, num_classes=2))
    """
    problems = source_problems(source, images=images)
    if problems:
        lines = "\n".join(f"- {problem}" for problem in problems)
        raise AssertionError(f"{type(source).__name__} does not keep the contract of a source:\n{lines}")


def source_problems(source: DataSource, *, images: int = 32) -> list[str]:
    """Return what is wrong with a source, a sentence each; an empty list if nothing is. See `check_source`."""
    images = check_count("images", images)
    if isinstance(source, (str, bytes)) or not isinstance(source, DataSource):
        return [f"It has no __iter__ method that yields samples. Received: {type(source).__name__}."]
    try:
        if iter(source) is source:
            return ["It is an iterator: it can be iterated only once. Write __iter__ as a generator of a class."]
        samples, pauses = _listed(source)
    except Exception as error:  # noqa: BLE001 - the author wants a sentence, whatever it is
        return [f"Iterating over it failed: {type(error).__name__}: {error}"]
    problems = list(_problems_of_samples(samples))
    if problems:
        return problems  # nothing else can be said of them
    chosen = [samples[index] for index in np.unique(np.linspace(0, len(samples) - 1, images).astype(int))]
    return [
        *_problems_of_listing(source, samples, pauses),
        *_problems_of_declarations(source, samples),
        *_problems_of_images(chosen),
    ]


def _listed(source: DataSource) -> tuple[list[Sample], list[float]]:
    """Return the samples, and how many seconds passed before each."""
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
    strange = next((sample for sample in samples if not isinstance(sample, Sample)), None)
    if strange is not None:
        kind = type(strange).__name__
        yield f"It must yield flowercnn.Sample(key, label, image). Received: {kind} {repr(strange)[:100]}."


def _problems_of_listing(source: DataSource, samples: Sequence[Sample], pauses: Sequence[float]) -> Iterator[str]:
    keys = [sample.key for sample in samples]
    repeated = [f"{key!r} ({n} times)" for key, n in Counter(keys).items() if n > 1]
    if repeated:
        yield f"Every key must come once. Received: {few(repeated, _FEW)}."
    try:
        again, pauses_again = _listed(source)
        together = [sample for pair in zip_longest(source, source) for sample in pair]
    except Exception as error:  # noqa: BLE001 - see above
        yield f"Iterating over it again failed: {type(error).__name__}: {error}"
        return
    # The quicker of two listings, sample by sample: other work on the machine slows some of each.
    yield from _problems_of_speed([min(pair) for pair in zip(pauses, pauses_again, strict=False)])
    keys_together = [None if sample is None else sample.key for sample in together]
    if [sample.key for sample in again] == keys and keys_together != [key for key in keys for _ in range(2)]:
        yield "Two iterations at once disturb each other: keep what an iteration needs in local variables."
    if len(again) != len(samples):
        yield f"A second iteration gives {len(again)} samples instead of {len(samples)}."
    elif sorted(sample.key for sample in again) != sorted(keys):
        new = sorted({sample.key for sample in again} - set(keys))
        yield (
            f"The keys change from one iteration to the next: the second has {few(new, _FEW)}. Derive them from the "
            "data."
        )
    elif [sample.key for sample in again] != keys:
        yield "The order changes from one iteration to the next. Sort what you list."
    before, after = _by_key(samples), _by_key(again)
    for name in ("label", "group", "split"):
        changed = [
            place[0]
            for place, sample in after.items()
            if place in before and getattr(sample, name) != getattr(before[place], name)
        ]
        if changed:
            yield f"The {name} of {few(changed, _FEW)} changes from one iteration to the next."


def _by_key(samples: Sequence[Sample]) -> dict[tuple[str, int], Sample]:
    """Return each sample by its key and how often that came before: keys may come twice, which is said elsewhere."""
    seen: Counter[str] = Counter()
    places = {}
    for sample in samples:
        places[sample.key, seen[sample.key]] = sample
        seen[sample.key] += 1
    return places


def _problems_of_speed(pauses: Sequence[float]) -> Iterator[str]:
    """Say that each sample takes long, or all together; one request to a server at the start may take a while."""
    seconds, count = sum(pauses), len(pauses)
    slow_each = count >= _ENOUGH_TO_TELL and median(pauses[1:]) > _SLOW_PER_SAMPLE
    if slow_each or seconds > max(_NOTICEABLE, _SLOW_PER_SAMPLE * count):
        yield (
            f"Listing is slow: {seconds:.2g} s for {count} samples. Do not open or load pictures in __iter__; give "
            "their path, or a function that returns their bytes."
        )


def _problems_of_declarations(source: DataSource, samples: Sequence[Sample]) -> Iterator[str]:
    yield from _problems_of_class_names(source, {sample.label for sample in samples if sample.label is not None})
    try:
        length = len(source)  # type: ignore[arg-type]  # it is optional
    except TypeError:
        return
    except Exception as error:  # noqa: BLE001 - see above
        yield f"len() failed: {type(error).__name__}: {error}"
        return
    if length != len(samples):
        yield f"len() says {length}, but there are {len(samples)} samples."


def _problems_of_class_names(source: DataSource, labels: set[str]) -> Iterator[str]:
    try:
        if hasattr(type(source), "class_names"):
            source.class_names  # type: ignore[attr-defined]  # noqa: B018 - an AttributeError in it would be no names
        accesses = [declared_class_names(source) for _ in range(_ACCESSES)]
    except ConfigurationError as error:
        yield str(error)
        return
    except Exception as error:  # noqa: BLE001 - see above
        yield f"class_names failed: {type(error).__name__}: {error}"
        return
    names = accesses[0]
    other = next((each for each in accesses if each != names), names)
    if other != names:
        yield (
            f"class_names must be the same at each access. Received: {few(names or ('None',), _FEW)}, then "
            f"{few(other or ('None',), _FEW)}. Keep a list or tuple of them, such as sorted(...)."
        )
    elif names is not None and labels - set(names):
        yield f"class_names must have every label. Missing: {few(sorted(labels - set(names)), _FEW)}."


def _problems_of_images(samples: Sequence[Sample]) -> Iterator[str]:
    first = [_digest(sample.image) for sample in samples]  # by place: keys may come twice
    bad = [(sample, digest) for sample, digest in zip(samples, first, strict=True) if not _is_ok(digest)]
    for sample, reason in bad[:_FEW]:
        yield f"The picture of {sample.key!r} cannot be used: {reason}"
    if len(bad) > _FEW:
        yield f"{len(bad)} of {len(samples)} pictures cannot be used."
    good = [(sample, digest) for sample, digest in zip(samples, first, strict=True) if _is_ok(digest)]
    changed = [sample.key for sample, digest in good if _digest(sample.image) != digest]
    if changed:
        yield (
            f"The picture of {few(changed, _FEW)} cannot be read twice with the same result: an open file or stream "
            "is used up after the first time, and pictures must not be changed at random."
        )
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        wanted = good * -(-4 * _THREADS // max(1, len(good)))
        results = pool.map(lambda pair: (pair[0].key, _digest(pair[0].image) == pair[1]), wanted)
        disturbed = sorted({key for key, is_same in results if not is_same})
    if disturbed:
        yield (
            f"Read by several threads at once, the picture of {few(disturbed, _FEW)} is another or fails: do not "
            "share an open file between pictures, or guard it with a threading.Lock."
        )


def _is_ok(digest: str) -> bool:
    return digest.startswith("ok ")


def _digest(image: ImageInput) -> str:
    """Return ``ok`` and a hash of the pixels, or why there are none."""
    try:
        content = read_content(image)
        picture = decode_image(content, background=(255, 255, 255), max_pixels=_MAX_PIXELS)
    except FlowerCNNError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - see above
        return f"{type(error).__name__}: {error}"
    return f"ok {hashlib.blake2b(picture.tobytes() + repr(picture.size).encode(), digest_size=16).hexdigest()}"
