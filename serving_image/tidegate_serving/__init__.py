"""What runs beside Triton: the model puller, the readiness agent and the validation of a ModelVersion.

This module imports nothing, because the agent's memory is paid for in every serving pod.
"""
