"""Prompts for a look at what a checkpoint writes, where there is no held-out text. As in the training data, indents are
tabs.
"""

PROMPTS = (
    'def read_lines(path, encoding="utf-8"):\n\t"""Return the lines of a file',
    "4 And it came to pass, when the king heard these words, that he",
    "She had been expecting her sister all the morning, and",
)
