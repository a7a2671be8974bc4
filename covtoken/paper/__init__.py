"""Make the paper: charts, pages, tables, and its numbers in words."""
