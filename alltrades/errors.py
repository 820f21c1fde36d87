"""The one exception that means: the user can fix this."""


class UserError(Exception):
    """A mistake the user can mend.

    The message is one line: what was found, what was expected, what to do. The command line prints
    it without a traceback and exits with code 2.
    """


def nearest(name: str, known: list[str]) -> str:
    """Return ", did you mean 'x'?" for the known name closest to `name`, or an empty string."""
    from difflib import get_close_matches

    match = get_close_matches(name, known, n=1, cutoff=0.5)
    return f", did you mean '{match[0]}'?" if match else ""
