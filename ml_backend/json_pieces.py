"""JSON texts of megabytes, parsed piece by piece, so that other threads have their turn every few milliseconds.

Python's JSON parser holds the interpreter from a text's first byte to its last: most of a second for 50 MB of numbers.
So a text is first looked through token by token, which finds what nobody reads, counts what would be made, and chooses
commas to cut at. A piece between two commas becomes a text of its own by opening before it, and closing behind it, the
lists and objects that it lies in; what it says is then added to them.
"""

from __future__ import annotations

import codecs
import json
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ml_backend.labelstudio.wire import RequestError

_PIECE = 1 << 16
_MAX_WIDE = 32 << 20
"""Bytes of a text with characters beyond ASCII, each of which may cost four; programs escape them."""

_MAX_DEPTH = 200
_MAX_TOKENS = 2_000_000
_MAX_CONTAINERS = 400_000
_MAX_ITEMS = 3_000_000
_MAX_ESCAPES = 5_000_000

_TOKEN = re.compile(
    rb'[^"\[\]{}]{0,65536}+(?:("[^"\\]{0,1000}+(?:\\.[^"\\]{0,100}+){0,100}+("?))|[\[\]{}]|)', re.DOTALL
)
"""What lies before a text, list or object, and that. A long text is not read to its end, and in a long gap a match ends
early, as the search holds the interpreter."""
_ESCAPES = re.compile(rb"(?:\\.[^\"\\]{0,100}+){1,10000}+", re.DOTALL)
_UNREAD = frozenset({b'"annotations"', b'"predictions"', b'"drafts"'})
_TASKS = b'"tasks"'
_LONGEST_NAME = 20
_SPACE = b" \t\n\r"
_QUOTE, _LIST, _OBJECT = b'"[{'
_SIGNS = frozenset(b'"[]{}')


class TooLargeError(ValueError):
    """The body is larger than allowed."""


@dataclass(slots=True)
class _Piece:
    """A part of the text.

    Attributes:
        parts: its bytes, without what is not read.
        begins: the signs of the lists and objects that are open before it, the outermost first.
        ends: of those behind it.
        stays: how many of the former it does not close.
        names: where, in the text, the names of those stand that it opens and leaves open; None in a list.
    """

    parts: list[memoryview | bytes]
    begins: bytes
    ends: bytes = b""
    stays: int = 0
    names: list[tuple[int, int] | None] = field(default_factory=list)


def parse(body: bytearray, piece: int = _PIECE) -> tuple[int, Any]:
    """What a JSON text says, and how many of its bytes were read for that.

    In the tasks of a list ``tasks``, containers under ``annotations``, ``predictions`` and ``drafts`` are None.

    Args:
        body: the text, in UTF-8.
        piece: bytes that are parsed at once, or somewhat more; a single text is never cut.

    Raises:
        RequestError: it is no JSON.
        TooLargeError: it holds too many values; none is made then.
    """
    reader = _Reader(body, piece)
    reader.look_through()
    pieces, size = reader.pieces, sum(len(part) for one in reader.pieces for part in one.parts)
    if sum(part.count(b",") for part in _slices(pieces)) > _MAX_ITEMS:
        raise TooLargeError(f"the body holds more than {_MAX_ITEMS} values")
    if size > _MAX_WIDE and not all(part.isascii() for part in _slices(pieces)):
        raise TooLargeError(f"the body has more than {_MAX_WIDE} bytes, and characters beyond ASCII; escape those")
    return size, _built(body, pieces)


def _slices(pieces: list[_Piece]) -> Iterator[bytes]:
    """What they hold, at most a megabyte at a time."""
    for part in (part for one in pieces for part in one.parts):
        for at in range(0, len(part), 1 << 20):
            yield bytes(part[at : at + (1 << 20)])


class _Reader:
    """Goes through a text once."""

    def __init__(self, body: bytearray, piece: int) -> None:
        self.pieces: list[_Piece] = []
        self._body, self._view, self._piece = body, memoryview(body), piece
        self._open = bytearray()  # the signs of what is open
        self._names: list[tuple[int, int] | None] = []  # of what is open
        self._last: list[tuple[int, int] | None] = [None]  # the last text at each depth
        self._lowest = 0  # depth since the last cut
        self._parts: list[memoryview | bytes] = []
        self._kept_until = 0
        self._cut_at = 0
        self._begins = b""

    def look_through(self) -> None:
        """Find the pieces. Raises as `parse`."""
        body, at, tokens, containers = self._body, 0, 0, 0
        tasks = unread = False
        skipped = 0  # the depth of what is skipped
        while (found := _TOKEN.match(body, at)) and found.end() > at:
            begun, at = at, found.end()
            start, sign = (found.start(1), _QUOTE) if found[1] else (at - 1, body[at - 1])
            if sign == _QUOTE and not found[2]:
                at = _text_end(body, at)
            if not skipped and start - self._cut_at >= self._piece:
                self._perhaps_cut(begun, start)
            if sign not in _SIGNS:  # a long gap, or what follows the last sign
                continue
            tokens += 1
            if tokens > _MAX_TOKENS:
                raise TooLargeError(f"the body holds more than {_MAX_TOKENS} texts, lists and objects")
            depth = len(self._open)
            if sign in b"[{":
                self._enter(sign)
                if not skipped:
                    containers += 1
                    if unread:
                        skipped = depth + 1
                        self._parts += [self._view[self._kept_until : start], b"null"]
                unread = False
            elif sign in b"]}":
                if skipped == depth:
                    self._kept_until, skipped = at, 0
                self._leave()
                unread = False
            elif not skipped:
                self._last[depth] = (start, at)
                if depth in (1, 3):
                    name = bytes(self._view[start:at]) if at - start < _LONGEST_NAME else b""
                    if depth == 1:
                        tasks = name == _TASKS
                    unread = depth == 3 and tasks and name in _UNREAD
        if self._open:
            raise _no_json("it ends too early")
        if containers > _MAX_CONTAINERS:
            raise TooLargeError(f"the body holds more than {_MAX_CONTAINERS} lists and objects")
        self._finish(len(body))

    def _enter(self, sign: int) -> None:
        depth = len(self._open)
        if depth == _MAX_DEPTH:
            raise _no_json("it has more levels")
        self._names.append(self._last[depth] if depth and self._open[-1] == _OBJECT else None)
        self._open.append(sign)
        self._last.append(None)

    def _leave(self) -> None:
        if not self._open:
            raise _no_json("it closes what was not opened")
        self._open.pop()
        self._names.pop()
        self._last.pop()
        self._lowest = min(self._lowest, len(self._open))

    def _perhaps_cut(self, start: int, end: int) -> None:
        """Cut at the last comma between these, if there is one."""
        comma = self._body.rfind(b",", start, end)
        if self._open and comma >= 0:
            if self._sign_before(comma) in b"[{" or self._sign_after(comma + 1) in b"]}":
                raise _no_json("a comma stands beside nothing")
            self._finish(comma)
            self._kept_until = self._cut_at = comma + 1

    def _sign_before(self, at: int) -> bytes:
        found = b""
        while at > 0 and not found:
            found, at = bytes(self._body[max(0, at - 1000) : at].rstrip(_SPACE)), at - 1000
        return found[-1:]

    def _sign_after(self, at: int) -> bytes:
        found = b""
        while at < len(self._body) and not found:
            found, at = bytes(self._body[at : at + 1000].lstrip(_SPACE)), at + 1000
        return found[:1]

    def _finish(self, end: int) -> None:
        parts = [*self._parts, self._view[self._kept_until : end]]
        stays, names = min(self._lowest, len(self._begins)), self._names
        self.pieces.append(_Piece(parts, self._begins, bytes(self._open), stays, names[stays:]))
        self._begins, self._lowest, self._parts = bytes(self._open), len(self._open), []


def _text_end(body: bytearray, at: int) -> int:
    """Where a text ends that goes on at ``at``."""
    quote, escapes = -1, 0
    while True:
        if quote < at:
            quote = body.find(b'"', at)
        if quote < 0:
            return len(body)
        slash = body.find(b"\\", at, quote)
        if slash < 0:
            return quote + 1
        found = _ESCAPES.match(body, slash)
        if found is None:  # it ends with a backslash
            return len(body)
        at = found.end()
        escapes += body.count(b"\\", slash, at)
        if escapes > _MAX_ESCAPES:
            raise TooLargeError(f"a text of the body holds more than {_MAX_ESCAPES} backslashes")


def _built(body: bytearray, pieces: list[_Piece]) -> Any:
    """What the pieces say together."""
    spine: list[Any] = []  # what is open, the outermost first
    inner = secrets.token_hex(16)  # stands for the name of what was opened before
    found: Any = None
    for number, piece in enumerate(pieces):
        text = b"".join([_opening(piece.begins, inner), *piece.parts, _closing(piece.ends)])
        value = _loads(text)
        if not number:
            found, spine = value, [value] if piece.ends else []
        else:
            _add(spine, value, inner)
            del spine[piece.stays :]
        for name in piece.names[len(spine) - piece.stays :]:
            own = spine[-1]
            spine.append(own[-1] if name is None else own[_loads(bytes(body[slice(*name)]))])
    return found


def _opening(signs: bytes, inner: str) -> bytes:
    """The lists and objects down to the one that a piece goes on in."""
    between = {_LIST: b"[", _OBJECT: b'{"%s":' % inner.encode()}
    return b"".join(between[sign] for sign in signs[:-1]) + signs[-1:]


def _closing(signs: bytes) -> bytes:
    return signs[::-1].translate(bytes.maketrans(b"[{", b"]}"))


def _add(spine: list[Any], value: Any, inner: str) -> None:
    """Put what a piece says into the lists and objects that it went on in."""
    for level, own in enumerate(spine):
        deeper = None
        if level + 1 < len(spine):
            deeper = value.pop(0) if isinstance(value, list) else value.pop(inner)
        if isinstance(own, list):
            own += value
        else:
            own.update(value)
        value = deeper


def _loads(text: bytes) -> Any:
    try:
        return json.loads(text.decode("utf-8-sig" if text[:3] == codecs.BOM_UTF8 else "utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise _no_json(type(error).__name__) from None


def _no_json(why: str) -> RequestError:
    return RequestError(f"the body is not valid JSON of at most {_MAX_DEPTH} levels ({why})")
