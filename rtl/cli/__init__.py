"""The command line: a thin shell over the Python API.

main.py       reads the arguments, runs one command, ends with a status
arguments.py  a command's arguments as the fields of a dataclass
commands/     the commands
tables.py     tables and lines of their results
demo.py       `rtl demo`
interrupt.py  Ctrl-C, wherever Python is when it comes
stopped.py    after Ctrl-C: what is kept, and the command that goes on
"""
