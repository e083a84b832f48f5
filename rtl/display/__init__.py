"""Output for a person: lines, tables, progress bars and a search's live table.

console.py         lines and tables for a terminal, a notebook, a pipe or a log
progress_views.py  progress of work that goes on
trial_table.py     the table of a search's trials
"""
