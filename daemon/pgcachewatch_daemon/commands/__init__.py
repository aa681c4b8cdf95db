"""The commands that a person types at a database: install, uninstall, status, doctor.

Each is a function from arguments to an exit code, found through the entry point group `pgcachewatch.commands`:
0 done and nothing wrong, 1 the database refused, can not be reached, or something is wrong, 2 the command line can not
work. What was asked for goes to standard output, and everything else to standard error.
"""
