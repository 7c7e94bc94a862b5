"""Forgets to mark its hook."""


def compresskit_strategies():
    return []
