from flowercnn.runtimes.convert import constant_function as constant_function
from flowercnn.runtimes.convert import quiet as quiet
from flowercnn.runtimes.convert import to_litert as to_litert
from flowercnn.runtimes.convert import to_onnx as to_onnx
from flowercnn.runtimes.runtimes import Computer as Computer
from flowercnn.runtimes.runtimes import KerasRuntime as KerasRuntime
from flowercnn.runtimes.runtimes import LiteRTRuntime as LiteRTRuntime
from flowercnn.runtimes.runtimes import OnnxRuntime as OnnxRuntime
from flowercnn.runtimes.runtimes import Runtime as Runtime
from flowercnn.runtimes.runtimes import RuntimeName as RuntimeName
from flowercnn.runtimes.runtimes import light_copy as light_copy
from flowercnn.runtimes.runtimes import litert_interpreter as litert_interpreter
from flowercnn.runtimes.runtimes import litert_is_installed as litert_is_installed

__all__: list[str]
