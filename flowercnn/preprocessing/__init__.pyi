from flowercnn.preprocessing.augment import Augmentation as Augmentation
from flowercnn.preprocessing.augment import Mixing as Mixing
from flowercnn.preprocessing.augment import apply_augmentation as apply_augmentation
from flowercnn.preprocessing.augment import apply_mixing as apply_mixing
from flowercnn.preprocessing.batches import Part as Part
from flowercnn.preprocessing.batches import TrainingBatches as TrainingBatches
from flowercnn.preprocessing.decode import decode_image as decode_image
from flowercnn.preprocessing.decode import decode_upright as decode_upright
from flowercnn.preprocessing.decode import draft_scale as draft_scale
from flowercnn.preprocessing.decode import draft_size as draft_size
from flowercnn.preprocessing.decode import is_turned as is_turned
from flowercnn.preprocessing.decode import read_content as read_content
from flowercnn.preprocessing.decode import to_mode as to_mode
from flowercnn.preprocessing.pixels import DiskStore as DiskStore
from flowercnn.preprocessing.pixels import JoinedPixels as JoinedPixels
from flowercnn.preprocessing.pixels import MemoryPixels as MemoryPixels
from flowercnn.preprocessing.pixels import MemoryStore as MemoryStore
from flowercnn.preprocessing.pixels import Pixels as Pixels
from flowercnn.preprocessing.pixels import clear_cache as clear_cache
from flowercnn.preprocessing.pixels import content_digest as content_digest
from flowercnn.preprocessing.preprocessing import BadImages as BadImages
from flowercnn.preprocessing.preprocessing import Preprocessing as Preprocessing
from flowercnn.preprocessing.resize import ResizeMode as ResizeMode
from flowercnn.preprocessing.views import Views as Views
from flowercnn.preprocessing.ycbcr import is_exact as is_exact
from flowercnn.preprocessing.ycbcr import ycbcr_to_rgb as ycbcr_to_rgb

__all__: list[str]
