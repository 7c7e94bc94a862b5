"""Offers something that is no anatomy."""

from compresskit import hookimpl


@hookimpl
def compresskit_architectures():
    return ["albert"]
