"""The one error of this package: a fault of the data or of the recipe, told with what to do about it."""


class DataError(Exception):
    """Something about the data is wrong; `message` says what, `help` what to do.

    Programs print both and end with status 1; nobody needs a traceback for a missing file.
    """

    def __init__(self, message: str, *, help: str) -> None:
        super().__init__(message, help)
        self.message = message
        self.help = help

    def __str__(self) -> str:
        return f"{self.message}\nhelp: {self.help}"
