"""Sentences that people read, kept translatable after they are formatted."""

from __future__ import annotations


class Sentence(str):
    """An English sentence that remembers how it was made, so that a page can say it in another language.

    `template` is the gettext msgid, with `{name}` fields; `params` fills them. As a `str` it is the English text,
    so any code that only knows strings (JupyterHub's error pages, logs) shows something sensible.
    A parameter may be a `Sentence` itself.
    """

    __slots__ = ("params", "template")

    template: str
    params: dict[str, object]

    def __new__(cls, template: str, /, **params: object) -> Sentence:
        self = super().__new__(cls, template.format(**params) if params else template)
        self.template = template
        self.params = params
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self.template, self.params))

    def to_json(self) -> dict[str, object]:
        """A JSON object that `from_json` turns back into the same sentence."""
        return {
            "template": self.template,
            "params": {
                key: value.to_json() if isinstance(value, Sentence) else value for key, value in self.params.items()
            },
        }

    @classmethod
    def from_json(cls, data: object) -> Sentence:
        """Rebuild from `to_json`; a plain string becomes a sentence without parameters."""
        if isinstance(data, dict) and isinstance(data.get("template"), str):
            params = {
                str(key): cls.from_json(value) if isinstance(value, dict) and "template" in value else value
                for key, value in (data.get("params") or {}).items()
            }
            return cls(data["template"], **params)
        return plain(str(data))


def plain(text: str) -> Sentence:
    """A sentence that is shown as it stands: a host's own words, a log line."""
    return Sentence("{text}", text=text)


def _rebuild(template: str, params: dict[str, object]) -> Sentence:
    return Sentence(template, **params)
