"""What a user did wrong, or what is wrong with their machine, said in one line."""


class UserError(Exception):
    """An error whose message is all that its reader needs.

    The message says what was given, what is allowed and what to do. In a notebook it
    is shown as one line instead of a traceback.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


class ParameterError(UserError, ValueError):
    """A parameter is unknown, of the wrong type or out of range."""


class DataError(UserError):
    """A data file is missing, truncated, altered or unreadable."""


class ArtefactError(UserError):
    """An artefact cannot be written or read."""


class TrainingError(UserError):
    """A training cannot go on (for example: its loss is not finite)."""
