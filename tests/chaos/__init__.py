"""Shows that the law holds under faults, attacks and a changing surrounding: `make chaos`, `python -m tests.chaos`.

Each file `row_*.py` shows one thing with real servers, workers and clients. All chance comes from one seed, and every
row states what it counted.
"""
