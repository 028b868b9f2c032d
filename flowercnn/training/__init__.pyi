from flowercnn.training.auto import choose_trainer as choose_trainer
from flowercnn.training.cross_validation import CrossValidation as CrossValidation
from flowercnn.training.cross_validation import cross_validate as cross_validate
from flowercnn.training.hyperparameters import SearchResult as SearchResult
from flowercnn.training.hyperparameters import search as search
from flowercnn.training.hyperparameters import usual_space as usual_space
from flowercnn.training.learning_rate import LearningRates as LearningRates
from flowercnn.training.run import History as History
from flowercnn.training.run import TrainingRun as TrainingRun
from flowercnn.training.trainer import Trainer as Trainer
from flowercnn.training.trainer import TrainerSettings as TrainerSettings
from flowercnn.training.trainer import make_trainer as make_trainer

__all__: list[str]
