from flowercnn.runtimes.convert import constant_function as constant_function
from flowercnn.runtimes.convert import quiet as quiet
from flowercnn.runtimes.convert import to_litert as to_litert
from flowercnn.runtimes.convert import to_onnx as to_onnx
from flowercnn.runtimes.keras import Computer as Computer
from flowercnn.runtimes.keras import KerasRuntime as KerasRuntime
from flowercnn.runtimes.keras import Runtime as Runtime
from flowercnn.runtimes.keras import RuntimeName as RuntimeName
from flowercnn.runtimes.litert import LiteRTRuntime as LiteRTRuntime
from flowercnn.runtimes.litert import litert_interpreter as litert_interpreter
from flowercnn.runtimes.litert import litert_is_installed as litert_is_installed
from flowercnn.runtimes.onnx import OnnxRuntime as OnnxRuntime

__all__: list[str]
