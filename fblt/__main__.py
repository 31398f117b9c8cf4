"""`python -m fblt`: the command `fblt`, where it is not installed."""

from .cli import main

if __name__ == "__main__":
    main()
