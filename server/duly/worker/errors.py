"""The exceptions of a worker. Their messages go to people, some of them to clients, and hold no path of the server."""


class LoadError(Exception):
    """A model cannot be loaded. The message names the file in the repository, the place in it and what would do."""


class RunError(Exception):
    """A batch cannot be run, with any of its frames."""


class InvalidFrame(Exception):
    """One frame cannot be run; the others of its batch can. The message tells the client why."""


class BackendError(Exception):
    """The installation cannot run models. The message says what to install."""
