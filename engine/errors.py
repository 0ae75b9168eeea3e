"""What bad input raises, on every floor: one sentence with the value, the rule and the remedy, shown without a traceback."""


class BadInput(ValueError):  # noqa: N818 - it is the input that is in error, and the sentence says how
    """Something a person gave us cannot be used; `str()` is the whole message."""
