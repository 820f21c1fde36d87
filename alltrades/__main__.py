"""`python -m alltrades`, as torchrun starts it."""

import sys

from alltrades.cli import main

if __name__ == "__main__":
    sys.exit(main())
