"""Files that bring a warehouse along: what lies there, and the orders that are open.

A file is read twice. The first pass reads and checks every row and applies nothing; the second
applies the rows in parts, each one script that also moves the file's position on, so that a killed
import goes on where it stopped and the same file never counts twice. Read ``table`` (bytes to
cells), ``rows`` (cells to rows), ``repeats`` (rows that come again), ``plans`` (rows to a script),
``importer`` (the two passes).
"""
