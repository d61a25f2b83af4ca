"""Text in figures: literal, in the style sheet's sizes, and broken into lines that fit their place."""

import re
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from captum_extremal.visualization._layout import Canvas, inches, room
from captum_extremal.visualization._style import BOX, INK, LARGE, NORMAL, SMALL

_MARGIN = 0.08  # inches, between two texts side by side
_BEFORE_LETTERS = re.compile(r"(_|/|(?<=[A-Za-z])-|\.(?=[A-Za-z_]))(?=\S)")  # a line may end after these
_TOGETHER = re.compile(r"(?<==) | (?=[=%/])|(?<=[a-z]) (?=[\d\N{MINUS SIGN}])")  # no line ends here: "a* = 20 %"
_END, _JOIN = "\x1f", "\x1e"  # stand for both while a text is broken


def write(set_text: Callable[..., object], text: str | list[str], size: float = NORMAL, **style: Any) -> None:
    """Set a title or a label, for example, literally: ``$`` in the name of a class does not begin a formula."""
    told = literal(text) if isinstance(text, str) else list(map(literal, text))
    set_text(told, **{"fontsize": size, "color": INK, "parse_math": False, "usetex": False, **style})


def suptitle(canvas: Canvas, text: str | None) -> None:
    if text:
        write(canvas.suptitle, wrapped(text, inches(canvas)[0] - 2 * _MARGIN, LARGE), LARGE)


def caption(canvas: Canvas, text: str) -> None:
    """A text beneath the whole figure."""
    write(canvas.supxlabel, wrapped(text, inches(canvas)[0] - 2 * _MARGIN, SMALL), SMALL)


def title(ax: Axes, text: str, size: float = NORMAL, *, boxed: bool = False, less: float = 0.0) -> None:
    """A title in lines that fit over an axes; ``less`` inches of its place are ticks, or a colour bar."""
    padding = 2 * 0.25 * size / 72 if boxed else 0.0
    width = room(ax)[0] - _MARGIN - padding - less
    write(ax.set_title, wrapped(text, width, size), size, bbox=BOX if boxed else None)


def under(ax: Axes, text: str, *, less: float = 0.0) -> None:
    """A small text beneath an axes, in lines that fit as those of a title."""
    write(ax.set_xlabel, wrapped(text, room(ax)[0] - _MARGIN - less, SMALL), SMALL)


def wrapped(text: str, width: float, size: float = NORMAL) -> str:
    """The text in lines of at most ``width`` inches, broken at spaces and after signs such as "_", else anywhere."""
    return "\n".join(piece for line in text.split("\n") for piece in _broken(literal(line), width, size))


def _broken(line: str, width: float, size: float) -> list[str]:
    if length(line, size) <= width:
        return [line]
    lines = [""]
    for word in _words(line):
        if length((lines[-1] + word).rstrip(), size) <= width:
            lines[-1] += word
            continue
        lines += _cut(word.lstrip(), width, size)
    return [one.rstrip() for one in lines if one.strip()]


def _words(line: str) -> list[str]:
    """The parts between which a line may end, each with the spaces before it."""
    marked = _BEFORE_LETTERS.sub(rf"\1{_END}", _TOGETHER.sub(_JOIN, line))
    return [word.replace(_END, "").replace(_JOIN, " ") for word in re.findall(rf" *[^ {_END}]+{_END}?| +", marked)]


def _cut(word: str, width: float, size: float) -> list[str]:
    """A word in parts that fit, of one letter at least."""
    parts = [""]
    for letter in word:
        if parts[-1] and length(parts[-1] + letter, size) > width:
            parts.append("")
        parts[-1] += letter
    return parts


def length(text: str, size: float) -> float:
    """The width in inches of a line."""
    return _length(text, size, tuple(FontProperties().get_family()))


@lru_cache(maxsize=4096)
def _length(text: str, size: float, family: tuple[str, ...]) -> float:
    font = FontProperties(family=list(family), size=size)
    return float(text_to_path.get_text_width_height_descent(text, font, False)[0]) / 72


def literal(text: str) -> str:
    """The text, with the codes of the signs that matplotlib's fonts lack: it would warn of them and draw boxes."""
    paths = tuple(font_manager.findfont(FontProperties(family=[name])) for name in FontProperties().get_family())
    known = _signs(paths)
    return "".join(sign if sign == "\n" or ord(sign) in known else _code(sign) for sign in text.expandtabs(1))


@cache
def _signs(paths: tuple[str, ...]) -> frozenset[int]:
    """The signs of these files of fonts."""
    return frozenset[int]().union(*(font_manager.get_font(path).get_charmap() for path in paths))


def _code(sign: str) -> str:
    return sign.encode("ascii", "backslashreplace").decode() if ord(sign) > 127 else f"\\x{ord(sign):02x}"
