"""Policies without PyTorch: ONNX export, and the policy that runs it."""
