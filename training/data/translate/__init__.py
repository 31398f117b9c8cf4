"""Pairs to translate: French and German lines with their English, from Debian packages."""
