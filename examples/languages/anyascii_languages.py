"""Six languages by anyascii, character by character. It needs no code: a language differs by its example alone."""

from anyascii import anyascii


class Spelling:
    def predict(self, text: str) -> str:
        return anyascii(text)


class Chinese(Spelling):
    example = "中文"


class Korean(Spelling):
    example = "한국어"


class Kazakh(Spelling):
    example = "қазақша"


class Kyrgyz(Spelling):
    example = "кыргызча"


class Tatar(Spelling):
    example = "татарча"


class Bashkir(Spelling):
    example = "башҡортса"
