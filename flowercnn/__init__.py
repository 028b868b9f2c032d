"""From folders of images to an image classifier you can trust, on an ordinary CPU, in a few lines.

    import flowercnn as fc

    run = fc.train("photos/", out="model.keras")
    fc.Predictor.load("model.keras").predict_one("new.jpg")

Everything public is a name here, or a name of a package here, such as ``fc.evaluation``. Importing
flowercnn imports nothing else; each name imports its module when it is first used, and TensorFlow
comes only with what needs it.
"""

from flowercnn._utils import attach

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = attach(
    __name__, old=dict.fromkeys(["audit", "contents", "dataset", "splits"], "flowercnn.data")
)
