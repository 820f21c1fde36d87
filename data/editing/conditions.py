"""Conditions on episodes: `return >= 3 and source == expert`. Parsed here, never executed.

    either   = both ("or" both)*
    both     = one ("and" one)*
    one      = "not" one | "(" either ")" | COLUMN | COLUMN OPERATOR VALUE
             | COLUMN "in" "(" VALUE ("," VALUE)* ")"
    OPERATOR = == != < <= > >= like

What is unknown of an episode (success that nothing says, a weight that was not estimated) makes a
test of it neither true nor false (Kleene's logic), so that an episode is taken neither by `success`
nor by `not success`; `success == unknown` finds it.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import translate
from typing import NamedTuple

import numpy as np

from alltrades.errors import UserError, nearest

TOKEN = re.compile(r"""\s*(?:("[^"]*"|'[^']*')|(==|!=|<=|>=|<|>|=|[(),])|([^\s()"',=<>!]+))""")
COMPARED: dict[str, Callable[[np.ndarray, float | int], np.ndarray]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
WORDS = ("and", "or", "not", "in", "like")
UNKNOWN = "unknown"
FLAGS = ("success", "actions")  # columns that are true, false or unknown
DEPTH = 50  # of parentheses and "not"
SHOWN = 5


class Truth(NamedTuple):
    """Of n episodes: where a condition holds and where it does not; elsewhere it is unknown."""

    yes: np.ndarray
    no: np.ndarray


class Token(NamedTuple):
    text: str
    quoted: bool


@dataclass
class Condition:
    """A condition in words, and how to apply it.

    Raises UserError for what is no condition when it is applied.
    """

    text: str

    def of(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """(n,) where it holds.

        Args:
            columns: (n,) by name: str objects, uint64, or float64 with NaN where unknown; FLAGS
                are 1, 0 or NaN.
        """
        return _Reader(self.text, columns).read().yes

    def columns(self, known: Mapping[str, np.ndarray]) -> list[str]:
        """Those of the known columns that it names."""
        words = [t.text for t in _tokens(self.text) if not t.quoted]
        return [name for name in known if name in words]


def values_in_words(values: np.ndarray) -> str:
    """What a column (n,) holds, for a message."""
    if values.dtype == object:
        distinct = [str(v) for v in dict.fromkeys(values.tolist())]
        more = f" and {len(distinct) - SHOWN} more" if len(distinct) > SHOWN else ""
        return ", ".join(v[:60] or "''" for v in distinct[:SHOWN]) + more
    known = values[np.isfinite(values)]
    return f"{known.min():g} to {known.max():g}" if len(known) else UNKNOWN


def _tokens(text: str) -> list[Token]:
    out, place = [], 0
    while text[place:].strip():
        found = TOKEN.match(text, place)
        if found is None:
            raise UserError(
                f"condition {text!r}: cannot be read from {text[place:].strip()[:20]!r} on; "
                "expected such as \"return >= 3 and source == 'my expert'\"; mend it"
            )
        quoted = found[1] is not None
        out.append(Token(found[1][1:-1] if quoted else found[2] or found[3], quoted))
        place = found.end()
    return out


class _Reader:
    """One pass over a condition's tokens."""

    def __init__(self, text: str, columns: Mapping[str, np.ndarray]) -> None:
        self.text, self.columns = text, columns
        self.tokens = _tokens(text)
        self.place = self.depth = 0

    def read(self) -> Truth:
        out = self._either()
        if self.place < len(self.tokens):
            raise self._wrong("'and', 'or' or its end")
        return out

    # ---- grammar ---------------------------------------------------------------------------------
    def _either(self) -> Truth:
        out = self._both()
        while self._take("or"):
            more = self._both()
            out = Truth(out.yes | more.yes, out.no & more.no)
        return out

    def _both(self) -> Truth:
        out = self._one()
        while self._take("and"):
            more = self._one()
            out = Truth(out.yes & more.yes, out.no | more.no)
        return out

    def _one(self) -> Truth:
        self.depth += 1
        if self.depth > DEPTH:
            raise UserError(
                f"condition {self.text[:60]!r}: more than {DEPTH} parentheses or 'not' in one "
                "another; expected fewer; write it shorter"
            )
        if self._take("not"):
            inner = self._one()
            out = Truth(inner.no, inner.yes)
        elif self._take("("):
            out = self._either()
            self._need(")")
        else:
            out = self._test()
        self.depth -= 1
        return out

    def _test(self) -> Truth:
        name = self._word("a column")
        if name.quoted or name.text not in self.columns:
            raise UserError(
                f"condition {self.text!r}: no column '{name.text}'"
                f"{nearest(name.text, list(self.columns))}; expected one of "
                f"{', '.join(self.columns)}"
            )
        column = self.columns[name.text]
        for sign in (*COMPARED, "=", "like"):
            if self._take(sign):
                sign = "==" if sign == "=" else sign
                return self._compared(name.text, column, sign, self._word("a value"))
        if self._take("in"):
            self._need("(")
            out = self._compared(name.text, column, "==", self._word("a value"))
            while self._take(","):
                more = self._compared(name.text, column, "==", self._word("a value"))
                out = Truth(out.yes | more.yes, out.no & more.no)
            self._need(")")
            return out
        if name.text not in FLAGS:
            raise self._wrong(f"==, !=, <, <=, >, >=, like or in after '{name.text}'")
        return Truth(column == 1, column == 0)

    def _compared(self, name: str, column: np.ndarray, sign: str, value: Token) -> Truth:
        if column.dtype == object:
            yes = self._text(name, column, sign, value)
            return Truth(yes, ~yes)
        known = np.isfinite(column)
        if value.text == UNKNOWN and sign in ("==", "!="):
            yes = ~known if sign == "==" else known
            return Truth(yes, ~yes)
        signs = ("==", "!=") if name in FLAGS else tuple(COMPARED)
        if sign not in signs:
            raise UserError(
                f"condition {self.text!r}: '{name} {sign}'; expected one of {', '.join(signs)}; "
                "mend it"
            )
        yes = COMPARED[sign](column, self._number(name, column, value))
        return Truth(yes & known, ~yes & known)

    def _text(self, name: str, column: np.ndarray, sign: str, value: Token) -> np.ndarray:
        if sign == "like":
            match = re.compile(translate(value.text)).match
            return np.array([match(v) is not None for v in column], bool)
        if sign not in ("==", "!="):
            raise UserError(
                f"condition {self.text!r}: '{name} {sign}' of text; expected ==, !=, in or like; "
                "mend it"
            )
        same = np.array(column == value.text, bool)
        if not same.any():
            known = list(dict.fromkeys(str(v) for v in column))
            raise UserError(
                f"condition {self.text!r}: no episode has {name} '{value.text}'"
                f"{nearest(value.text, known)}; expected one of {values_in_words(column)}"
            )
        return same if sign == "==" else ~same

    def _number(self, name: str, column: np.ndarray, value: Token) -> float | int:
        if name in FLAGS and value.text.lower() in ("true", "false"):
            return float(value.text.lower() == "true")
        whole = column.dtype.kind == "u" and value.text.isascii() and value.text.isdigit()
        try:
            number = int(value.text[:40]) if whole else float(value.text)
        except ValueError:
            number = np.nan
        if number != number or (name in FLAGS and number not in (0, 1)):
            kind = "true, false or unknown" if name in FLAGS else "a number"
            raise UserError(
                f"condition {self.text!r}: {name} compared with '{value.text}'; expected {kind}; "
                "mend it"
            )
        return number

    # ---- tokens ----------------------------------------------------------------------------------
    def _take(self, text: str) -> bool:
        """Whether the next token is this one, which is then behind us."""
        here = self.place < len(self.tokens) and self.tokens[self.place] == Token(text, False)
        self.place += here
        return here

    def _need(self, text: str) -> None:
        if not self._take(text):
            raise self._wrong(f"'{text}'")

    def _word(self, what: str) -> Token:
        if self.place < len(self.tokens):
            token = self.tokens[self.place]
            if token.quoted or token.text not in (*COMPARED, *WORDS, *"=(),"):
                self.place += 1
                return token
        raise self._wrong(what)

    def _wrong(self, expected: str) -> UserError:
        here = self.tokens[self.place].text if self.place < len(self.tokens) else ""
        found = f"'{here}'" if here else "its end"
        return UserError(f"condition {self.text!r}: {found}; expected {expected}; mend it")
