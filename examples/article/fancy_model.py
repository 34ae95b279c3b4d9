"""The article's model, for both programs."""

import time


class FancyModel:
    def __init__(self):
        time.sleep(0.05)  # load once

    def predict(self, text: str) -> str:
        time.sleep(0.005)
        return f"Can't tell anything smart about: {text}"
