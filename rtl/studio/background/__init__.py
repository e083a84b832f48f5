"""Long work beside the pages.

tasks.py     a queue of work, with progress, cancelled where asked
command.py   a command of rtl in a process of its own
tethered.py  that process, which ends with the studio
events.py    what changes, sent to all open pages
"""
