"""Precision of training: float32, or bfloat16 where the processor computes it faster."""

from __future__ import annotations

import logging
import time
from functools import cache
from pathlib import Path
from typing import Final, Literal, get_args

from flowercnn._utils import check_choice

__all__ = ["Precision", "check_precision", "choose_precision", "has_bfloat16"]

Precision = Literal["auto", "float32", "bfloat16"]
"""How activations are held in training; weights and sums of gradients are float32 always."""

_SLOWER: Final = 0.8  # times as fast
_TRIALS: Final = 12
_log = logging.getLogger(__name__)


def check_precision(precision: Precision) -> None:
    """Refuse what is not a precision.

    Raises:
        ConfigurationError: If it is not one of the three.
    """
    check_choice("precision", precision, get_args(Precision))


def choose_precision(precision: Precision) -> Literal["float32", "bfloat16"]:
    """Return the precision to train in: for ``"auto"`` bfloat16 where the processor is made for it.

    That is tried out once per process, in a quarter of a second, where the processor says that it multiplies bfloat16
    in hardware; others emulate it. It must be slower there to be turned down, as other work blurs the trial.

    Raises:
        ConfigurationError: If it is not one of the three.
    """
    check_precision(precision)
    if precision != "auto":
        return precision
    return _faster_precision()


@cache
def _faster_precision() -> Literal["float32", "bfloat16"]:
    if not has_bfloat16():
        _log.info("Training in float32: the processor does not multiply bfloat16 in hardware.")
        return "float32"
    seconds = {name: min(times) for name, times in _time_convolutions().items()}
    ratio = seconds["float32"] / seconds["bfloat16"]
    chosen: Literal["float32", "bfloat16"] = "bfloat16" if ratio > _SLOWER else "float32"
    _log.info("Training in %s: convolutions in bfloat16 are %.1f times as fast as in float32 here.", chosen, ratio)
    return chosen


def _time_convolutions() -> dict[str, list[float]]:
    """Seconds of the same convolution in both precisions, in turns, so that other work slows both alike."""
    import tensorflow as tf

    convolve = tf.function(lambda x, kernel: tf.nn.conv2d(x, kernel, 1, "SAME"))
    inputs = {
        name: (tf.ones((16, 28, 28, 64), name), tf.ones((3, 3, 64, 64), name)) for name in ("float32", "bfloat16")
    }
    seconds: dict[str, list[float]] = {name: [] for name in inputs}
    for _ in range(_TRIALS):
        for name, arguments in inputs.items():
            started = time.perf_counter()
            convolve(*arguments).numpy()
            seconds[name].append(time.perf_counter() - started)
    return seconds


@cache
def has_bfloat16() -> bool:
    """Return whether the processor says that it multiplies bfloat16 in hardware."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
