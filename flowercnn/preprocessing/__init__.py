"""Preprocessing: decoding and resizing of images, and the augmentation of training batches."""

from flowercnn._utils import attach

__getattr__, __dir__, __all__ = attach(
    __name__, old={"cache": "flowercnn.preprocessing", "mixing": "flowercnn.preprocessing"}
)
