"""What NVIDIA's driver says of its GPUs through NVML: which GPU a lane is on, how it does, and how well it is. Standard
library alone; NVML is asked through the module `pynvml` of the package nvidia-ml-py where that is installed.
"""
