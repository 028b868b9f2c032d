from flowercnn.data.audit import AuditReport as AuditReport
from flowercnn.data.audit import Finding as Finding
from flowercnn.data.dataset import Dataset as Dataset
from flowercnn.data.dataset import Duplicates as Duplicates
from flowercnn.data.dataset import Fold as Fold
from flowercnn.data.dataset import Splits as Splits
from flowercnn.data.dataset import as_dataset as as_dataset
from flowercnn.data.grouping import Overlap as Overlap
from flowercnn.data.grouping import names_and_links as names_and_links
from flowercnn.data.inspection import Content as Content
from flowercnn.data.labels import LabelEncoder as LabelEncoder
from flowercnn.data.labels import check_printable as check_printable
from flowercnn.data.reading import LoadedImages as LoadedImages
from flowercnn.data.splitting import Units as Units
from flowercnn.data.splitting import check_fractions as check_fractions
from flowercnn.data.splitting import draw_folds as draw_folds
from flowercnn.data.splitting import draw_units as draw_units

__all__: list[str]
