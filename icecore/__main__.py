"""`python -m icecore`."""

from icecore.cli import main

main()
