"""`python -m icecore`."""

from icecore.cli.main import main

main()
