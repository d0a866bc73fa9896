"""Settings of every test."""

import os

# Before anything imports ONNX Runtime: its Linux builds report usage home unless they are told not to.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
