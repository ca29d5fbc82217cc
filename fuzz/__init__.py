"""What comes from outside, as bytes without sense: `python3 dev fuzz TARGET`; see `targets`."""
