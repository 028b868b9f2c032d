"""``python -m flowercnn``: the command line."""

from flowercnn.cli import main

main(prog_name="flowercnn")
