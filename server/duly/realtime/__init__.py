"""What Linux gives a process that must answer in time, and what takes it back where the process would harm others.

`scheduling`, `memory`, `wakefulness` and `lane_cpus` are each one thing that is asked of the kernel; `rights` says
which of them this process may have; `silence` and `watchdog` take the urgency back from a server that is lost.
"""
