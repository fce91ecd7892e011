"""What can go wrong in the demo."""


class DemoError(Exception):
    """The demo cannot go on; the text says why, with the end of a service's log where one is to blame."""
