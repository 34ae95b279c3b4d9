"""The second version of the article's model: no smarter, but it says which one it is."""

import time


class FancyModel:
    example = {"text": "tadaaam"}  # noqa: RUF012 - warms a replica up before it is ready

    def __init__(self):
        time.sleep(0.05)

    def predict(self, text: str) -> str:
        time.sleep(0.005)
        return f"Version 2 can't tell anything smart about: {text}"
