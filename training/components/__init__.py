"""Parts of a model that are trained by themselves: the patcher before the rest, a draft head after it."""
