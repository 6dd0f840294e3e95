"""The exceptions of a worker. Their messages go to people, some of them to clients, and hold no path of the server."""


class LoadError(Exception):
    """A model cannot be loaded. The message names the file in the repository, the place in it and what would do."""


class LoadFull(LoadError):
    """There is not enough memory to load a model, or for its batches."""


class RunError(Exception):
    """A batch cannot be run, with any of its frames."""


class DeviceLost(RunError):
    """Nothing runs on the device any more, whatever the frames are: the process has to be replaced."""


class DeviceFull(RunError):
    """There is not enough memory for the batch on the device; for a smaller one there may be."""


class InvalidFrame(Exception):
    """One frame cannot be run; the others of its batch can. The message tells the client why."""


class BackendError(Exception):
    """The installation cannot run models. The message says what to install."""
