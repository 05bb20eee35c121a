"""The shared parts of backends whose files are ONNX."""
