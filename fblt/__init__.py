"""Everything around the model: conversion, training, benchmarks, and the command `fblt`.

An installed package holds its parts inside this folder. In a checkout they stand beside it, under the same names, so
that `fblt.training` and `python -m training.train` find the same files.
"""

from pathlib import Path

__version__ = "0.1.0"

_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "setup.cfg").is_file() and (_checkout / "modeling_fblt").is_dir():
    __path__.append(str(_checkout))
