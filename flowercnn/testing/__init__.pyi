from flowercnn.testing.models import check_model as check_model
from flowercnn.testing.models import model_problems as model_problems
from flowercnn.testing.sources import check_source as check_source
from flowercnn.testing.sources import source_problems as source_problems

__all__: list[str]
