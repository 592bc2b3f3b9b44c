"""Every error that minattn raises on purpose: one type per kind of mistake.

Each is a `MinattnError` and also the built-in that a caller would expect, so both
`except minattn.MinattnError` and `except ValueError` work.
"""


class MinattnError(Exception):
    """The root: whatever minattn refuses, it refuses with one of these."""


class ShapeError(MinattnError, ValueError):
    """An axis disagrees; the text names it by its letter, with both sizes."""


class DtypeError(MinattnError, TypeError):
    """An array of a type that attention is not defined for, such as integers."""


class MaskError(MinattnError, ValueError):
    """A mask that is not boolean, or a rule that cannot be evaluated."""


class PositionError(MinattnError, ValueError):
    """Positions of the wrong kind, or given for keys alone."""


class OptionError(MinattnError, ValueError):
    """An option out of its range, or two that exclude each other."""


class DecayError(MinattnError, ValueError):
    """A log decay outside its range: positive, not a number, or infinite where it must be finite."""


class LinearityError(MinattnError, ValueError):
    """A function that no matrix describes: it is not linear in the argument that was said to be its values."""


class BackendError(MinattnError, ValueError):
    """A backend that does not exist here, or cannot do what is asked of it; the text says which do."""


class CacheError(MinattnError, ValueError):
    """A cache that is full, or asked for what it cannot give."""


class TokenError(MinattnError, ValueError):
    """A token that the vocabulary does not hold."""


class WeightsError(MinattnError, ValueError):
    """A weight file that is missing, truncated, altered, or of a format that is not read."""


class DownloadError(MinattnError, ValueError):
    """Weights that could not be fetched; the text names the command to run again."""


class PlotError(MinattnError, ValueError):
    """An array that cannot be drawn as an attention map, such as one with NaN."""


class DependencyError(MinattnError, ImportError):
    """An optional package is missing; the text names the extra that brings it."""


class LessonError(MinattnError, ValueError):
    """A lesson that cannot be read as a notebook, or an exercise in another form than a lesson's."""


class KernelError(MinattnError, ValueError):
    """A GPU kernel that raised in the simulator; the text names thread and line."""
