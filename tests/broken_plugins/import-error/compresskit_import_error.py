"""Needs a module that nobody has."""

import compresskit_of_another_planet  # noqa: F401
