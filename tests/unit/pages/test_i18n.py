"""Languages: what is asked for, what is said, and that nothing is left untranslated."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

import labspawner
from labspawner.pages.i18n import CHINESE, ENGLISH, both, catalog, negotiate, pick, recognise, translate
from labspawner.sentences import Sentence, plain

PACKAGE = Path(labspawner.__file__).parent
TEMPLATE_CALL = re.compile(r"""\bt\(\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')""")
NO_SCRIPT = re.compile(r"<\s*/?\s*[a-z]", re.IGNORECASE)


def _msgids() -> dict[str, str]:
    """Every sentence of the package that a reader may see, and the file it stands in."""
    found: dict[str, str] = {}
    for path in sorted(PACKAGE.rglob("*.html")):
        for match in TEMPLATE_CALL.finditer(path.read_text(encoding="utf-8")):
            found.setdefault(ast.literal_eval(match[1]), path.name)
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _name(node.func) == "Sentence" and node.args:
                for text in _texts(node.args[0]):
                    found.setdefault(text, str(path.relative_to(PACKAGE)))
    return found


def _name(function: ast.expr) -> str:
    return function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")


def _texts(node: ast.expr) -> list[str]:
    """The literals that an argument can be: one, or the branches of a conditional."""
    if isinstance(node, ast.IfExp):
        return _texts(node.body) + _texts(node.orelse)
    return [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []


def _fields(text: str) -> list[str]:
    return sorted(re.findall(r"\{(\w*)", text))


def test_every_sentence_has_a_chinese_translation():
    missing = [f"{where}: {text!r}" for text, where in _msgids().items() if text not in catalog(CHINESE)]

    assert not missing, "no translation in labspawner.po for\n" + "\n".join(missing)


def test_error_titles_and_advice_have_a_chinese_translation():
    from labspawner.pages import lab

    texts = {*lab._ERROR_TITLES.values(), *lab._ERROR_ADVICE.values(), lab._OTHER_ADVICE}

    assert sorted(texts - set(catalog(CHINESE))) == []


@pytest.mark.parametrize(("msgid", "msgstr"), sorted(catalog(CHINESE).items()))
def test_a_translation_keeps_the_fields_and_holds_no_markup(msgid, msgstr):
    assert _fields(msgid) == _fields(msgstr)
    assert not NO_SCRIPT.search(msgstr)


def test_a_sentence_is_translated_as_its_template_and_then_filled():
    sentence = Sentence("{count} free", count=3)

    assert translate(sentence, CHINESE) == "空闲 3 个"
    assert translate(sentence, ENGLISH) == "3 free"


def test_a_nested_sentence_is_translated_too():
    sentence = Sentence("{reason} (not done: {failure})", reason=Sentence("dry run"), failure=Sentence("already gone"))

    assert translate(sentence, CHINESE) == "演练，未执行（未执行：已不存在）"


def test_a_time_is_localised():
    assert translate(Sentence("at most {span}", span="1 h 30 min"), CHINESE) == "最长 1 小时 30 分钟"


def test_a_name_that_looks_like_no_time_stays_as_it_is():
    assert translate("For {user}", CHINESE, user="4 hours") == "为 4 hours 启动"


def test_what_has_no_translation_stays_english():
    assert translate(Sentence("No such sentence {a}", a=1), CHINESE) == "No such sentence 1"
    assert translate("plain text", CHINESE) == "plain text"
    assert translate("Stop", "fr") == "Stop"


def test_a_sentence_that_lost_its_parameters_is_said_in_english():
    sentence = Sentence("{count} free", count=3)
    sentence.params = {"other": 1}

    assert translate(sentence, CHINESE) == "3 free"


def test_a_hosts_own_words_are_shown_as_they_stand():
    assert translate(plain("disk {full} 100%"), CHINESE) == "disk {full} 100%"


@pytest.mark.parametrize(
    "text",
    [
        "Everything is in use. You are number 3 in line.",
        "HTTP 503: Service Unavailable (Everything is in use. You are number 3 in line.)",
    ],
)
def test_a_sentence_that_became_text_on_the_way_is_recognised(text):
    assert translate(recognise(text), CHINESE) == "资源已全部占用。您排在第 3 位。"


def test_an_error_that_only_wraps_a_fixed_sentence_is_unwrapped():
    assert recognise("HTTP 400: Bad Request (Named servers are not enabled.)") == "Named servers are not enabled."


@pytest.mark.parametrize("text", ["", "no sentence of ours", "x" * 5000, Sentence("Stop")])
def test_what_is_no_sentence_of_ours_is_left_alone(text):
    assert recognise(text) is text


def test_both_carries_every_language_escaped():
    html = BeautifulSoup(both(Sentence("For {user}", user="<script>&")), "html.parser")

    assert [(span["lang"], span.text) for span in html.find_all("span", class_="lab-t")] == [
        ("en", "For <script>&"),
        ("zh-CN", "为 <script>& 启动"),
    ]
    assert html.find("script") is None


def test_a_title_is_picked_in_the_language_then_in_english_then_in_any():
    assert pick({"en": "a", "zh-CN": "b"}, CHINESE) == "b"
    assert pick({"en": "a"}, CHINESE) == "a"
    assert pick({"fr": "c"}, CHINESE) == "c"
    assert pick({}, CHINESE) == ""


@pytest.mark.parametrize(
    ("accept", "language"),
    [
        ("", "en"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh-CN"),
        ("zh-TW", "zh-CN"),
        ("zh", "zh-CN"),
        ("ZH_cn", "zh-CN"),
        ("en-GB,zh;q=0.9", "en"),
        ("fr,zh;q=0.5,en;q=0.4", "zh-CN"),
        ("fr", "en"),
        ("zh;q=0, en;q=0.1", "en"),
        ("zh;q=0", "en"),
        ("zh;q=nonsense", "en"),
        ("*", "en"),
        (",;;,=,q=1", "en"),
        ("zh," * 5000, "zh-CN"),
    ],
)
def test_the_browsers_wish_is_read(accept, language):
    assert negotiate(accept) == language


def test_a_choice_made_now_beats_one_made_before_and_both_beat_the_browser():
    assert negotiate("en", "zh-CN") == "zh-CN"
    assert negotiate("zh-CN", "zh-CN", "en") == "en"


def test_an_unknown_choice_is_passed_over():
    assert negotiate("zh", "tlh", "../../etc/passwd") == "zh-CN"
