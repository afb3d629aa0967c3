"""The backends there are. None of them is imported before it is used."""

#: Name of a backend -> its module, the most promising first; a name with a dot is the module itself.
BACKENDS = {
    "eager": "tenshot.fast.eager",
    "openvino": "tenshot.fast.openvino",
    "tensorrt": "tenshot.fast.tensorrt",
    "torchscript": "tenshot.fast.torchscript",
    "onnxruntime": "tenshot.fast.onnxruntime",
    "aotinductor": "tenshot.fast.aotinductor",
}
