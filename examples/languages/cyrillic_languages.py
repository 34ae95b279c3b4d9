"""Eight languages by cyrtranslit, each by the rules that its readers are used to."""

import cyrtranslit


class Latiniser:
    code = ""  # as the package calls it, mostly the country's

    def predict(self, text: str) -> str:
        return cyrtranslit.to_latin(text, self.code)


class Serbian(Latiniser):
    code, example = "sr", "српски"


class Russian(Latiniser):
    code, example = "ru", "русский"


class Ukrainian(Latiniser):
    code, example = "ua", "українська"


class Belarusian(Latiniser):
    code, example = "by", "беларуская"


class Bulgarian(Latiniser):
    code, example = "bg", "български"


class Macedonian(Latiniser):
    code, example = "mk", "македонски"


class Mongolian(Latiniser):
    code, example = "mn", "монгол"


class Tajik(Latiniser):
    code, example = "tj", "тоҷикӣ"
