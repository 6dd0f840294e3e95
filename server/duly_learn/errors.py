"""The base of what a user of duly_learn's commands can set right."""


class LearnError(Exception):
    """What was asked for cannot be done. The message says what is wrong, where, and what would be right."""
