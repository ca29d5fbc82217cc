"""Orders of the account that the manager's own exits meet: read, and cleared out of the way where that is allowed.

Those of others that work in a symbol that is exited, exits of ours that nobody drives, and what works though it should
not: a second order of one id, an exit whose position has ended. What is to be done is decided in `holdings.working`;
here it is asked and carried out. Nothing here sends an exit. And what other people hear: alarms, callbacks, the log.
"""
