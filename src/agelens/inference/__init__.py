"""From photos to ages with onnxruntime alone: the estimator, what it returns and the shipped models."""
