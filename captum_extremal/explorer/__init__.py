"""The explorer: one HTML file without a network, to play with a result in a browser.

It is made of plain values (numbers, text, pictures as data URLs), which :mod:`captum_extremal.results` takes from a
result. ``explorer.html``, ``explorer.css`` and ``explorer.js``, an ES module without a framework, are inlined when a
file is written.
"""

from captum_extremal.explorer.outlines import as_path, enclosing_level
from captum_extremal.explorer.page import page
from captum_extremal.explorer.pictures import as_bytes, data_url, differences, signed_bytes

__all__ = ["as_bytes", "as_path", "data_url", "differences", "enclosing_level", "page", "signed_bytes"]
