"""Restoring damaged lines: the damage, the rows to train on, and what a model's restorations are worth."""
