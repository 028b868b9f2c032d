from flowercnn.saving.description import Description as Description
from flowercnn.saving.exports import ExportFormat as ExportFormat
from flowercnn.saving.exports import ExportReport as ExportReport
from flowercnn.saving.exports import export as export
from flowercnn.saving.guards.keras_config import check_network as check_network
from flowercnn.saving.light import light_copy as light_copy
from flowercnn.saving.light import read_export as read_export
from flowercnn.saving.modelfile import ModelFile as ModelFile
from flowercnn.saving.modelfile import check_can_be_saved as check_can_be_saved
from flowercnn.saving.modelfile import read_model as read_model
from flowercnn.saving.modelfile import write_model as write_model

__all__: list[str]
