"""Somebody's browser in front of a console in this process: cookies, forms as they stand on the page, redirects."""

from __future__ import annotations

from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from urllib.parse import urlencode, urljoin, urlsplit

from bs4 import BeautifulSoup, Tag
from tornado.httpclient import HTTPRequest
from unit.console.lab import Lab


@dataclass
class Seen:
    """What came back."""

    status: int
    url: str
    headers: dict[str, str]
    text: str

    @property
    def html(self) -> BeautifulSoup:
        return BeautifulSoup(self.text, "html.parser")

    def says(self, words: str) -> bool:
        return words in " ".join(self.html.get_text(" ").split())

    def form(self, selector: str) -> dict[str, str | list[str]]:
        """The fields of a form as a browser would send them."""
        form = self.html.select_one(selector)
        assert form is not None, f"no {selector} in {self.text[:2000]}"
        return fields_of(form)


def fields_of(form: Tag) -> dict[str, str | list[str]]:
    """What a browser would send, without a button."""
    found: dict[str, list[str]] = {}
    for field_ in form.select("input[name], select[name], textarea[name]"):
        if field_.has_attr("disabled") or field_.find_parent("fieldset", disabled=True):
            continue
        kind = str(field_.get("type", ""))
        if kind in {"checkbox", "radio"} and not field_.has_attr("checked"):
            continue
        if field_.name == "select":
            chosen = field_.select_one("option[selected]") or field_.select_one("option")
            value = str(chosen["value"]) if chosen else ""
        elif field_.name == "textarea":
            value = field_.text.removeprefix("\n").replace("\n", "\r\n")
        else:
            value = str(field_.get("value", ""))
        found.setdefault(str(field_["name"]), []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


@dataclass
class Browser:
    """A browser in which `who` is logged in; without a name, nobody."""

    lab: Lab
    who: str | None
    language: str = "en"
    cookies: dict[str, str] = field(default_factory=dict)
    origin: str | None = None

    def __post_init__(self) -> None:
        if self.who:
            name, _, value = self.lab.cookie_of(self.who).partition("=")
            self.cookies[name] = value
        parts = urlsplit(self.lab.base)
        self.origin = f"{parts.scheme}://{parts.netloc}"

    async def get(self, path: str, *, follow: bool = True) -> Seen:
        return await self._go("GET", path, None, follow=follow)

    async def post(self, path: str, fields: dict, *, follow: bool = True, **headers: str) -> Seen:
        """Send a form. fields: as `Seen.form` gives them, with what was typed."""
        return await self._go("POST", path, urlencode(fields, doseq=True), follow=follow, headers=headers)

    async def submit(self, page: Seen, selector: str, **typed: object) -> Seen:
        """Send a form of the page with what was typed into it; names are written with `_` for `.` and `-`... as `with_`."""
        form = page.html.select_one(selector)
        assert form is not None, f"no {selector} on {page.url}: {page.text[:3000]}"
        action = str(form.get("action") or page.url)
        return await self.post(action, {**fields_of(form), **typed})

    async def _go(
        self, method: str, path: str, body: str | None, *, follow: bool, headers: dict[str, str] | None = None
    ) -> Seen:
        url = urljoin(self.lab.base, path)
        given = {"Accept-Language": self.language, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "same-origin"}
        if method == "POST":
            given |= {"Origin": self.origin or "", "Content-Type": "application/x-www-form-urlencoded"}
        given |= headers or {}
        for _ in range(6):
            cookies = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
            request = HTTPRequest(
                url, method=method, headers={**given, **cookies}, body=body, follow_redirects=False,
                request_timeout=240, connect_timeout=240,
            )  # fmt: skip
            answer = await self.lab.client.fetch(request, raise_error=False)
            for line in answer.headers.get_list("Set-Cookie"):
                for name, morsel in SimpleCookie(line).items():
                    self.cookies[name] = morsel.value
            if not (follow and answer.code in {301, 302, 303} and "/hub/" not in answer.headers["Location"]):
                break
            url, method, body = urljoin(url, answer.headers["Location"]), "GET", None
        return Seen(answer.code, url, dict(answer.headers), answer.body.decode("utf-8", "replace"))
