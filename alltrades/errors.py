"""The one exception that means: the user can fix this."""


class UserError(Exception):
    """A mistake the user can mend.

    The message is one line: what was found, what was expected, what to do. The command line prints
    it without a traceback and exits with code 2.
    """


class MissingExtra(UserError):
    """A package is missing that one of the project's extras brings.

    Args:
        what: what was found and expected.
        extra: name of the extra that brings it.
    """

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(what, extra)  # both, so that a worker's copy says the same
        self.extra = extra

    @property
    def remedy(self) -> str:
        return f'pip install "alltrades[{self.extra}]"'

    def __str__(self) -> str:
        return f"{self.args[0]}; {self.remedy}"


def nearest(name: str, known: list[str]) -> str:
    """Return ", did you mean 'x'?" for the known name closest to `name`, or an empty string."""
    from difflib import get_close_matches

    match = get_close_matches(name, known, n=1, cutoff=0.5)
    return f", did you mean '{match[0]}'?" if match else ""
