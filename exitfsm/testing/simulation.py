"""Say where the simulation has gone: it belongs to the tests of a checkout, and was this module."""

import sys

if __name__ == "__main__":
    sys.exit("the simulation is no part of the package; in a checkout of it: python3 dev simulation --seed 1 --days 2")
