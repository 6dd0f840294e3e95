"""Makes the record of a GPU: `make gpu`, `python -m tests.gpu`.

What starts it needs nothing but Python: it makes an environment, online or from wheels that were laid there
(`python -m tests.gpu.wheels`), and runs in it one stage after the other, each a file `stage_*.py` and a process of its
own with its share of the time.
"""
