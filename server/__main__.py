"""``python -m server`` is the ``tidegate`` command."""

from server.cli import main

main()
