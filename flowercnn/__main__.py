"""``python -m flowercnn``: the command line."""

from flowercnn.cli import main

if __name__ == "__main__":
    main(prog_name="flowercnn")
