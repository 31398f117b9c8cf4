"""The page of `fblt page`: a model writes with two decodings side by side, as a Gradio app."""
