"""`python -m exitfsm`: the command line."""

import sys

from exitfsm.cli import main

if __name__ == "__main__":
    sys.exit(main())
