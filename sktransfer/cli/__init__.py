"""The command line and the demonstration."""

from .app import main

__all__ = ["main"]
