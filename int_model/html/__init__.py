"""The kit of every HTML page, in a file or served: page shells, one style sheet, macros, charts, pictures.

Belongs here: what two pages have in common, and nothing that knows what a page is about. A page is a view model (plain
Python), a template that extends ``kit/file.html.j2`` (self-contained) or ``kit/page.html.j2`` (served), and a style
sheet only for what no other page has.
"""
