"""Which language is it? By py3langid, told to choose among the languages that have an endpoint here."""

import py3langid

LANGUAGES = """
    hy ka hi el he ar fa ur ps th lo km my am si bn ta ug
    mr ne sa as te kn ml gu pa or
    sr ru uk be bg mk mn tg
    zh ko kk ky tt ba
    en pt
""".split()  # noqa: SIM905 - a list would fill a page


class Router:
    example = "Good morning."

    def __init__(self):
        py3langid.set_languages(LANGUAGES)

    def predict(self, text: str) -> str:
        return py3langid.classify(text)[0]
