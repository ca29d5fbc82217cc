"""Exit codes of the command line; 0 is: all is well."""

#: Something was found.
FINDING = 1
#: Wrong usage, or input that cannot be used.
BAD_INPUT = 2
#: A defect of ours (EX_SOFTWARE): not 1, which means a finding.
DEFECT = 70
#: Whoever read our output stopped reading: what a shell shows of a program that the signal PIPE ended.
PIPE_CLOSED = 141
