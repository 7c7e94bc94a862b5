"""Every error that a user can cause. The command line prints the message alone and exits with code 1."""

from __future__ import annotations


class CompresskitError(Exception):
    """Something the user can mend: the message says what is wrong, where, and what to do now."""


class RecipeError(CompresskitError):
    """A recipe that can't be carried out; the message lists every mistake with its line."""


class PluginError(CompresskitError):
    """A strategy or architecture plugin that can't be used."""


class ArchitectureError(CompresskitError):
    """A checkpoint whose `model_type` has no anatomy."""


class SurgeryError(CompresskitError):
    """A change of shape that would leave no working model."""


class CheckpointError(CompresskitError):
    """A model folder that can't be read or written."""


class DataError(CompresskitError):
    """Text or labels that can't be used."""
