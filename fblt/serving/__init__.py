"""`fblt serve`: a model behind OpenAI's completions and chat completions, over HTTP."""
