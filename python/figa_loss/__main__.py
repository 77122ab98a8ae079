"""The command `figa`: `python -m figa_loss --help`."""

import signal
import sys

from ._core import run


def main() -> None:
    # The command runs without the interpreter, which would only notice Ctrl-C at the end.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(run(["figa", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
