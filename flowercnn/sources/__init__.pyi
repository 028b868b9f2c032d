from flowercnn.sources.adapters import from_arrays as from_arrays
from flowercnn.sources.adapters import from_huggingface as from_huggingface
from flowercnn.sources.adapters import from_tensorflow as from_tensorflow
from flowercnn.sources.base import DataSource as DataSource
from flowercnn.sources.base import ImageInput as ImageInput
from flowercnn.sources.base import Sample as Sample
from flowercnn.sources.base import checked_class_names as checked_class_names
from flowercnn.sources.base import declared_class_names as declared_class_names
from flowercnn.sources.compose import concat as concat
from flowercnn.sources.compose import filter as filter  # noqa: A004 - sources.filter reads best
from flowercnn.sources.compose import limit as limit
from flowercnn.sources.compose import map_labels as map_labels
from flowercnn.sources.download import Download as Download
from flowercnn.sources.flowers import Flower17 as Flower17
from flowercnn.sources.flowers import Flower102 as Flower102
from flowercnn.sources.folder import ImageFolder as ImageFolder
from flowercnn.sources.inputs import PredictInput as PredictInput
from flowercnn.sources.inputs import keyed_images as keyed_images
from flowercnn.sources.inputs import single_image as single_image
from flowercnn.sources.memory import InMemory as InMemory
from flowercnn.sources.registry import as_source as as_source
from flowercnn.sources.registry import list_sources as list_sources
from flowercnn.sources.registry import open_source as open_source
from flowercnn.sources.registry import registered_sources as registered_sources
from flowercnn.sources.synthetic import SyntheticFlowers as SyntheticFlowers
from flowercnn.sources.table import ImageTable as ImageTable
from flowercnn.sources.tensorbay.source import TensorBay as TensorBay

__all__: list[str]
