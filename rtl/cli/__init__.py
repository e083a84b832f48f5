"""The command line.

main.py            what it takes, and how it ends
commands.py        the commands
job_commands.py    `rtl submit` and `rtl jobs`
demo.py            `rtl demo`
console.py         tables and lines for a terminal or a log
progress_views.py  bars and lines of work that goes on
trial_table.py     the table of a search's trials
interrupt.py       Ctrl-C, wherever Python is when it comes
stopped.py         after Ctrl-C: what stands, and the command that goes on
"""
