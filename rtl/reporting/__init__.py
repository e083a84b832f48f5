"""A run as one HTML file: its scores, their certainty, their cost, and the way to reproduce them.

facts.py    the run's records and the figures computed from them   (no HTML)
charts.py   numbers as SVG                                         (no storage)
page.py     the page, from `page.html.j2`
"""

from rtl.reporting.page import report

__all__ = ["report"]
