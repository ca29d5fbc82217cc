"""The rules, one in a file of its own: its settings, and what it says when it is asked.

To add one: write its file, and put it into `policy.listed.RULES`. Its section is then known to the configuration and
its schema, its levels to the engine and the simulation, and its words to `explain`, the page and preflight.
"""
