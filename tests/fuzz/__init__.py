"""Whatever bytes come in, the code that reads them answers in words: `make fuzz`, `python -m tests.fuzz`.

`targets` has a function for each reader, which raises where the reader does what it should not. `corpus` has inputs for
each that reach far, and those that once found something.
"""
