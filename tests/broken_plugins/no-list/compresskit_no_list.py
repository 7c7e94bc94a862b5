"""Returns nothing from its hook."""

from compresskit import hookimpl


@hookimpl
def compresskit_strategies():
    return None
