"""``python -m sktransfer``: the command line."""

from .cli import main

main()
