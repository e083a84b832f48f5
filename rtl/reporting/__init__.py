"""A run as one HTML file: how good, how sure, at what cost, and how to do it again.

facts.py    what the run left in storage, and what follows from it   (no HTML)
charts.py   numbers as SVG                                           (no storage)
page.py     the page, from `page.html.j2`
"""

from rtl.reporting.page import report

__all__ = ["report"]
