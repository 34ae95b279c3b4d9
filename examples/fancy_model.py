"""The model of the article: slow to load, quick to answer, and not very smart.

muleteer serve examples/fancy_model.py:FancyModel --route /predict
"""

import time


class FancyModel:
    example = {"text": "tadaaam"}  # noqa: RUF012 - warms a replica up before it is ready

    def __init__(self):
        time.sleep(0.05)  # load once, in a process of its own

    def predict(self, text: str) -> str:
        time.sleep(0.005)
        return f"Can't tell anything smart about: {text}"
