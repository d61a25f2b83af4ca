"""The file: the page's own sources, with the data in them."""

import base64
import hashlib
import html
import json
from importlib.resources import files
from string import Template
from typing import Any


def page(title: str, data: dict[str, Any]) -> str:
    """The explorer of these data as HTML in ASCII, which loads nothing and runs no other script than its own.

    Args:
        title: any text.
        data: plain values for ``explorer.js``, which says at its top what they are. No text in them can end the script
            element that holds them, whatever it is.

    Raises:
        ValueError: a number is not finite.
    """
    script, style = _source("explorer.js"), _source("explorer.css")
    filled = Template(_source("explorer.html")).substitute(
        title=html.escape(title),
        data=_json(data),
        script=script,
        style=style,
        script_hash=_hash(script),
        style_hash=_hash(style),
    )
    return filled.encode("ascii", "xmlcharrefreplace").decode("ascii")


def _source(name: str) -> str:
    text = files("captum_extremal.explorer").joinpath(name).read_text(encoding="ascii")
    return text.replace("\r\n", "\n").strip("\n")


def _json(data: dict[str, Any]) -> str:
    """JSON in ASCII without a sign that means something in HTML."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _hash(text: str) -> str:
    """What the page's policy names a script or a style by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
