"""The exception of whoever reads a model's folder."""


class BrokenModel(Exception):
    """One model or version cannot be used. The message says why and follows the folder's name, as in `/FILE: why`."""
