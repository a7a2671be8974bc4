"""Draw charts: rows in, an Altair chart out."""
