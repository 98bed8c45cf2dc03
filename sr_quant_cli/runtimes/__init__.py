"""What runs a network: torch, ONNX Runtime or OpenVINO, behind one interface.

Each is imported only when it is used: upscaling with a prepared graph does without torch.
"""
