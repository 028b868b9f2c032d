"""Sources of images: folders, archives, tables, arrays, TensorBay, public data sets, your own."""

from flowercnn._utils import attach

__getattr__, __dir__, __all__ = attach(__name__)
