"""Offers something that is no strategy."""

from compresskit import hookimpl


@hookimpl
def compresskit_strategies():
    return [dict]
