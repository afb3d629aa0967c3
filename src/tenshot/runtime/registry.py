"""The backends there are. None of them is imported before it is used."""

#: Name of a backend -> its module, the most promising first; a name with a dot is the module itself.
BACKENDS = {
    "eager": "tenshot.runtime.backends.eager",
    "openvino": "tenshot.runtime.backends.openvino",
    "tensorrt": "tenshot.runtime.backends.tensorrt",
    "torchscript": "tenshot.runtime.backends.torchscript",
    "onnxruntime": "tenshot.runtime.backends.onnxruntime",
    "aotinductor": "tenshot.runtime.backends.aotinductor",
}
