"""Names of files from text that comes from outside: a photograph's name, a class's, an annotation's."""

import re
import unicodedata

_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d|conin\$|conout\$)(?![^.\s])", re.IGNORECASE)  # of Windows
_FORBIDDEN = '<>:"/\\|?*'
_LONGEST = 80  # bytes; file systems take 255, and the kind of figure and a number follow


def safe_name(text: str, otherwise: str = "unnamed") -> str:
    """The text as one part of a path that every common file system takes; ``otherwise`` where nothing is left of it.

    It leads nowhere else, is not hidden, is no option, and has no characters that cannot be displayed.
    """
    shown = (sign if sign.isprintable() and sign not in _FORBIDDEN else "_" for sign in text)
    # Composed, so that two spellings of a name that some file systems take for one are one here.
    name = unicodedata.normalize("NFC", "".join(shown)).lstrip(" .-~").encode()[:_LONGEST].decode(errors="ignore")
    name = name.rstrip(" .") or otherwise
    return f"_{name}" if _RESERVED.match(name) else name


def slug(text: str) -> str:
    """The words of a text in small letters, joined by hyphens, as part of a safe name."""
    return "-".join(re.findall(r"[^\W_]+", text.lower()))
