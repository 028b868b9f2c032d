"""Precision of training: float32, or bfloat16 where the processor computes it faster."""

from __future__ import annotations

import logging
import time
from functools import cache
from pathlib import Path
from typing import Final, Literal, get_args

from flowercnn._utils import check_choice

Precision = Literal["auto", "float32", "bfloat16"]
"""Precision of activations in training; weights and sums of gradients are always float32."""

_SLOWER: Final = 0.8  # times as fast
_TRIALS: Final = 12
_log = logging.getLogger(__name__)


def check_precision(precision: Precision) -> None:
    """Raise a ConfigurationError unless a precision is one of the three."""
    check_choice("precision", precision, get_args(Precision))


def choose_precision(precision: Precision) -> Literal["float32", "bfloat16"]:
    """Return the precision to train in; ``"auto"`` is bfloat16 where the hardware supports it.

    Where the processor reports bfloat16 instructions, both are timed once per process, in a quarter
    of a second; elsewhere bfloat16 is emulated and slow. Other work blurs the timing, so bfloat16
    is chosen unless it is clearly slower.

    Raises:
        ConfigurationError: If it is not one of the three.
    """
    check_precision(precision)
    return _faster_precision() if precision == "auto" else precision


@cache
def _faster_precision() -> Literal["float32", "bfloat16"]:
    if not has_bfloat16():
        _log.info("Training in float32: the processor does not multiply bfloat16 in hardware.")
        return "float32"
    seconds = {name: min(times) for name, times in _time_convolutions().items()}
    ratio = seconds["float32"] / seconds["bfloat16"]
    chosen: Literal["float32", "bfloat16"] = "bfloat16" if ratio > _SLOWER else "float32"
    _log.info("Training in %s: bfloat16 is %.1f times as fast as float32 here.", chosen, ratio)
    return chosen


def _time_convolutions() -> dict[str, list[float]]:
    """Seconds of one convolution in each precision, alternating so that other work slows both."""
    import tensorflow as tf

    convolve = tf.function(lambda x, kernel: tf.nn.conv2d(x, kernel, 1, "SAME"))
    seconds: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    inputs = {
        name: (tf.ones((16, 28, 28, 64), name), tf.ones((3, 3, 64, 64), name)) for name in seconds
    }
    for _ in range(_TRIALS):
        for name, arguments in inputs.items():
            started = time.perf_counter()
            convolve(*arguments).numpy()
            seconds[name].append(time.perf_counter() - started)
    return seconds


@cache
def has_bfloat16() -> bool:
    """Return whether the processor reports bfloat16 instructions."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
