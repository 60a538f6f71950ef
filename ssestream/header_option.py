"""The option ``--header`` of the commands: one more header of each request."""

import argparse


def header(text: str) -> tuple[str, str]:
    """The name and the value of the header *text*.

    :raise argparse.ArgumentTypeError: if it is no ``NAME: VALUE``, or would end the line.
    """
    name, colon, value = text.partition(":")
    if not colon or not name.strip() or not text.isprintable():
        raise argparse.ArgumentTypeError(f"must be 'NAME: VALUE', not {text!r}")
    return name.strip(), value.strip()
