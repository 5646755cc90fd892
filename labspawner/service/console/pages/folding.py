"""Templates that are compiled for one language: a sentence that stands in them whole is translated then, once, and not at
each page. What it says is the same."""

from __future__ import annotations

from collections.abc import Iterator

from jinja2.ext import Extension
from jinja2.lexer import Token, TokenStream

from labspawner.pages import i18n

NAME = "t"
"""What templates call to translate: `t("Courses")`. With values, `t("{count} students", count=3)`, it stays a call."""


def folding(language: str) -> type[Extension]:
    """The extension of an environment whose templates are all read in `language`."""

    class Folding(Extension):
        def filter_stream(self, stream: TokenStream) -> Iterator[Token]:
            tokens = list(stream)
            place = 0
            while place < len(tokens):
                if _is_whole_sentence(tokens, place):
                    said = tokens[place + 2]
                    yield Token(said.lineno, "string", i18n.translate(said.value, language))
                    place += 4
                else:
                    yield tokens[place]
                    place += 1

    return Folding


def _is_whole_sentence(tokens: list[Token], place: int) -> bool:
    """Whether `t("...")` begins here, and nothing else of that name."""
    kinds = [token.type for token in tokens[place : place + 4]]
    if kinds != ["name", "lparen", "string", "rparen"] or tokens[place].value != NAME:
        return False
    return place == 0 or tokens[place - 1].type not in {"dot", "pipe"}
