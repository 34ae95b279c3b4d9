"""Text in any of the languages → its language, and what the model of that language makes of it.

python ask.py 'Բարեւ, աշխարհ' 'Доброе утро' 'Bom dia.'
"""

import json
import os
import sys
import urllib.error
import urllib.request

SERVER = os.environ.get("SERVER", "http://127.0.0.1:8000")
TRANSLATED = {"en": "/translate/en-pt", "pt": "/translate/pt-en"}


def ask(route: str, text: str) -> str:
    request = urllib.request.Request(SERVER + route, json.dumps({"text": text}).encode())
    request.add_header("content-type", "application/json")
    try:
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as refused:
        sys.exit(f"{route}: {refused.code}, {json.load(refused)['error']}")
    except urllib.error.URLError as error:
        sys.exit(f"{route}: {SERVER} does not answer: {error.reason}")


for text in sys.argv[1:]:
    language = ask("/detect", text)
    print(language, ask(TRANSLATED.get(language, f"/romanise/{language}"), text), sep="\t")
