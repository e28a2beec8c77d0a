"""Networks and what runs them: checkpoints, graphs, engines, ONNX."""
