"""A student as files for others: safetensors, ONNX, a program of torch.export, and the card that goes with them."""
