"""Wants an argument that the hook does not have."""

from compresskit import hookimpl


@hookimpl
def compresskit_strategies(catalogue):
    return []
