"""Implements a hook that does not exist."""

from compresskit import hookimpl


@hookimpl
def compresskit_strategy():
    return []
