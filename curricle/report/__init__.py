"""Findings to something a person reads: one self-contained page, figures, and the same in the terminal.

`page` writes the report, `figures` draws its charts, `terminal` speaks to a console. Everything is made from a study,
its plan, its results and its findings; nothing is typed by hand. Drawing is slow to import, so this file imports none
of it: ask for `curricle.report.terminal` or `curricle.report.page`.
"""
