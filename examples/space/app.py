"""A Hub Space of the page; see README.md beside this file."""

import os
from pathlib import Path

from fblt.page.command import serve

if __name__ == "__main__":
    serve(
        os.environ.get("MODEL", str(Path(__file__).with_name("model"))),
        host=os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0"),
    )
