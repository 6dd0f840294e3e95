"""Joules that this machine takes, as far as it tells: RAPL of processors, NVML of GPUs. Standard library alone; NVML is
asked through the package nvidia-ml-py where that is installed.
"""
