"""A text of another alphabet or with accents in the letters a to z, so that names compare, and are such as the catalogue takes."""

from __future__ import annotations

import unicodedata

__all__ = ["latin_letters"]

_LETTERS = str.maketrans(
    {
        # Latin letters that Unicode does not take for a letter and an accent
        "ł": "l", "ø": "o", "ß": "ss", "æ": "ae", "œ": "oe", "đ": "d", "ð": "d", "þ": "th", "ı": "i", "ħ": "h", "ŋ": "n",
        # Cyrillic, each letter alone
        "а": "a", "б": "b", "в": "v", "г": "g", "ґ": "g", "д": "d", "ђ": "dj", "е": "e", "є": "ie", "ж": "zh", "з": "z",
        "и": "i", "і": "i", "ј": "j", "к": "k", "л": "l", "љ": "lj", "м": "m", "н": "n", "њ": "nj", "о": "o", "п": "p",
        "р": "r", "с": "s", "т": "t", "ћ": "c", "у": "u", "ф": "f", "х": "kh", "ц": "ts", "ч": "ch", "џ": "dz", "ш": "sh",
        "щ": "shch", "ъ": "", "ы": "y", "ь": "", "э": "e", "ю": "iu", "я": "ia", "ʼ": "", "’": "",
        # Greek
        "α": "a", "β": "v", "γ": "g", "δ": "d", "ε": "e", "ζ": "z", "η": "i", "θ": "th", "ι": "i", "κ": "k", "λ": "l", "μ": "m",
        "ν": "n", "ξ": "x", "ο": "o", "π": "p", "ρ": "r", "σ": "s", "ς": "s", "τ": "t", "υ": "y", "φ": "f", "χ": "ch", "ψ": "ps",
        "ω": "o",
    }
)  # fmt: skip


def latin_letters(text: str) -> str:
    """The text with letters a to z for those with accents, and of the Cyrillic and the Greek alphabet; other signs stay.

    >>> latin_letters("Próbki PLN"), latin_letters("Ścieżka"), latin_letters("Регион"), latin_letters("Größe")
    ('Probki PLN', 'Sciezka', 'Region', 'Grosse')
    """
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return "".join(map(_latin, plain))


def _latin(letter: str) -> str:
    small = letter.lower()
    latin = small.translate(_LETTERS)
    return letter if latin == small else latin.capitalize() if letter != small else latin
