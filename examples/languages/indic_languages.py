"""Ten languages of India and Nepal by indic-transliteration, in the Latin letters of ISO 15919 (Sanskrit: IAST)."""

import re
import unicodedata

from indic_transliteration import sanscript

# Letters as the package knows them: one with a dot below is one character, where normalised text (NFC) has two.
KNOWN = {unicodedata.normalize("NFC", letter): letter for letter in map(chr, range(0x0900, 0x0E00))}
KNOWN = {written: letter for written, letter in KNOWN.items() if written != letter} | {"ୱ": "ଵ"}  # Odia's w is its v
WRITTEN = re.compile("|".join(KNOWN))


class Transliterator:
    script = ""
    latin = sanscript.ISO

    def predict(self, text: str) -> str:
        text = WRITTEN.sub(lambda written: KNOWN[written[0]], text)
        return sanscript.transliterate(text, self.script, self.latin)


class Marathi(Transliterator):
    script, example = sanscript.DEVANAGARI, "मराठी"


class Nepali(Transliterator):
    script, example = sanscript.DEVANAGARI, "नेपाली"


class Sanskrit(Transliterator):
    script, latin, example = sanscript.DEVANAGARI, sanscript.IAST, "संस्कृतम्"


class Assamese(Transliterator):
    script, example = "assamese", "অসমীয়া"


class Telugu(Transliterator):
    script, example = sanscript.TELUGU, "తెలుగు"


class Kannada(Transliterator):
    script, example = sanscript.KANNADA, "ಕನ್ನಡ"


class Malayalam(Transliterator):
    script, example = sanscript.MALAYALAM, "മലയാളം"


class Gujarati(Transliterator):
    script, example = sanscript.GUJARATI, "ગુજરાતી"


class Punjabi(Transliterator):
    script, example = sanscript.GURMUKHI, "ਪੰਜਾਬੀ"


class Odia(Transliterator):
    script, example = sanscript.ORIYA, "ଓଡ଼ିଆ"
