"""Where pictures come from.

The sources themselves, and what makes sources of other things:

    from flowercnn import sources

    both = sources.concat(garden=sources.ImageFolder("garden"), field=sources.ImageFolder("field"))
    few = sources.limit(sources.map_labels(both, {"dandelion (young)": "dandelion"}), per_class=50)

Importing this imports nothing else; each name brings its module with it when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowercnn.sources.adapters import from_arrays as from_arrays
    from flowercnn.sources.adapters import from_huggingface as from_huggingface
    from flowercnn.sources.adapters import from_tensorflow as from_tensorflow
    from flowercnn.sources.base import DataSource as DataSource
    from flowercnn.sources.base import ImageInput as ImageInput
    from flowercnn.sources.base import Sample as Sample
    from flowercnn.sources.compose import concat as concat
    from flowercnn.sources.compose import filter as filter  # noqa: A004 - as sources.filter it is clear
    from flowercnn.sources.compose import limit as limit
    from flowercnn.sources.compose import map_labels as map_labels
    from flowercnn.sources.flowers import Flower17 as Flower17
    from flowercnn.sources.flowers import Flower102 as Flower102
    from flowercnn.sources.folder import ImageFolder as ImageFolder
    from flowercnn.sources.memory import InMemory as InMemory
    from flowercnn.sources.plugins import as_source as as_source
    from flowercnn.sources.plugins import list_sources as list_sources
    from flowercnn.sources.plugins import open_source as open_source
    from flowercnn.sources.synthetic import SyntheticFlowers as SyntheticFlowers
    from flowercnn.sources.table import ImageTable as ImageTable
    from flowercnn.sources.tensorbay import TensorBay as TensorBay

_HOME = {
    "DataSource": "base",
    "Flower102": "flowers",
    "Flower17": "flowers",
    "ImageFolder": "folder",
    "ImageInput": "base",
    "ImageTable": "table",
    "InMemory": "memory",
    "Sample": "base",
    "SyntheticFlowers": "synthetic",
    "TensorBay": "tensorbay",
    "as_source": "plugins",
    "concat": "compose",
    "filter": "compose",
    "from_arrays": "adapters",
    "from_huggingface": "adapters",
    "from_tensorflow": "adapters",
    "limit": "compose",
    "list_sources": "plugins",
    "map_labels": "compose",
    "open_source": "plugins",
}

__all__ = [*_HOME]  # noqa: PLE0604 - the table above, which a test compares with the imports type checkers see


def __getattr__(name: str) -> object:
    """Import the module of a name when it is first used."""
    if name not in _HOME:
        raise AttributeError(f"module 'flowercnn.sources' has no attribute {name!r}")
    value = getattr(import_module(f"flowercnn.sources.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
