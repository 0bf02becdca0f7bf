"""
Standard output that takes nothing: a full disk, a pipe that nobody reads any more.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click


@contextmanager
def printing() -> Iterator[None]:
    """
    End with exit code 1 where standard output takes nothing: with a line of why, as on a full
    disk, or without one where who reads has had enough.
    """
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:  # it may have been closed before
                sys.stdout.flush()
    except OSError as error:
        giveUpOutput()
        if error.errno != errno.EPIPE:
            click.echo(f"Error: standard output: {error.strerror}", err=True)
        raise SystemExit(1) from None


def giveUpOutput() -> None:
    """
    Let what could not be written go nowhere: Python would try to write it once more when it ends,
    and complain.
    """
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
