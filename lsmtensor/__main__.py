"""``python -m lsmtensor``: the command line."""

from .cli import main

main()
