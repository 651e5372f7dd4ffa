"""Run folders made readable: tables for the terminal."""
