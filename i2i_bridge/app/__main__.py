"""The page of trained runs as a program: also the file `app.py` of a Hugging Face Space.

The variable I2I_APP_RUNS names the runs, separated by spaces.
"""

import os

from i2i_bridge.app.server import serve

if __name__ == "__main__":  # a Space, which says by these variables where to listen
    serve(
        os.environ.get("I2I_APP_RUNS", "pretrained/photos").split(),
        host=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"),
        port=int(os.environ.get("GRADIO_SERVER_PORT", "7860")),
    )
