"""Quantization that needs calibration: nvidia-modelopt, run as a worker of its own."""
