"""The one exception that a user's mistake ends in."""


class UserError(ValueError):
    """A mistake in what the user gave: says in one line what was wrong, where, and what to do.

    The command line prints the message alone and exits with code 1.
    """
