"""Errors that a user can act on: one sentence that says what is wrong, where, and what to do."""


class SlideSparseError(Exception):
    """Base of every error that ends a program with its sentence and without a traceback."""


class ConfigurationError(SlideSparseError):
    """A key or value of the configuration cannot be used."""


class CheckpointError(SlideSparseError):
    """A model or checkpoint on disk is missing, damaged, or not what its manifest says."""


class DownloadError(SlideSparseError):
    """A model could not be fetched."""


class HardwareError(SlideSparseError):
    """The machine is not the one that was asked for, or cannot run what was asked of it."""


class MeasurementError(SlideSparseError):
    """A measurement could not be made, or its result is wrong."""


class RecordError(SlideSparseError):
    """A stored point, table or CSV is damaged or does not belong where it lies."""


class OutOfMemoryError(MeasurementError):
    """A point does not fit into the device's memory. This is a result, not a failure."""
