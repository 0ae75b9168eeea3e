"""What bad input raises, on every floor: a sentence with the value, the rule and the remedy, and no traceback."""


class BadInput(ValueError):  # noqa: N818 - it is the input that is in error, and the sentence says how
    """Something a person gave us cannot be used; `str()` is the whole message."""
