from flowercnn.prediction.calibration import Calibration as Calibration
from flowercnn.prediction.calibrator import calibrate as calibrate
from flowercnn.prediction.explain import Explanation as Explanation
from flowercnn.prediction.explain import grad_cam as grad_cam
from flowercnn.prediction.explain import occlusion as occlusion
from flowercnn.prediction.out_of_distribution import (
    OutOfDistributionDetector as OutOfDistributionDetector,
)
from flowercnn.prediction.prediction import Prediction as Prediction
from flowercnn.prediction.predictor import Predictor as Predictor
from flowercnn.prediction.similar import Extractor as Extractor
from flowercnn.prediction.similar import Similar as Similar
from flowercnn.prediction.similar import embed as embed
from flowercnn.prediction.similar import find_similar as find_similar

__all__: list[str]
