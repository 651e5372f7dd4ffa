"""Reports on run folders: tables for the terminal, plots, and an HTML page."""
