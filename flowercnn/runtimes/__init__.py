"""Runtimes, which compute a network: Keras, LiteRT, ONNX Runtime."""

from flowercnn._utils import attach

__getattr__, __dir__, __all__ = attach(__name__)
