"""JupyterHub's templates under ours, as the hub renders them, without a hub."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jinja2 import Environment
from jupyterhub._data import DATA_FILES_PATH
from traitlets.config import Config
from unit.pages.rendering import EVIL, Board, Handler, a_spawner, a_user, rendered, text_of

from labspawner.pages import hub
from labspawner.pages.handlers import COOKIE, STATIC_DIR, is_local_path, progress_so_far
from labspawner.sentences import Sentence

# -- every page -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("accept", "language"), [("en", "en"), ("zh-CN,zh;q=0.9", "zh-CN"), ("fr", "en")])
def test_a_page_states_the_language_it_is_written_in(accept, language):
    html = rendered("logout.html", Handler(accept=accept))

    assert html.html["lang"] == language


def test_a_page_offers_the_other_language_and_comes_back():
    link = rendered("logout.html", Handler("/hub/logout?x=1&_xsrf=s")).select_one("#lab-language")

    assert link.text == "中文"
    assert link["href"] == "/hub/labspawner/language?to=zh-CN&next=%2Fhub%2Flogout%3Fx%3D1"


def test_coming_back_to_the_spawn_page_brings_no_options_along():
    link = rendered("logout.html", Handler("/hub/spawn?profile=a&next=%2Fuser%2Fx")).select_one("#lab-language")

    assert link["href"].endswith("next=%2Fhub%2Fspawn%3Fnext%3D%252Fuser%252Fx")


def test_after_a_page_of_our_own_the_switch_leads_home():
    link = rendered("logout.html", Handler("/hub/labspawner/stop/student1")).select_one("#lab-language")

    assert link["href"].endswith("next=%2Fhub%2Fhome")


def test_a_very_long_name_keeps_its_place_and_stays_readable_in_the_title():
    html = rendered("home.html", user=a_user("x" * 300), default_server=a_spawner(a_user()), url="/hub/spawn")

    assert html.select_one(".lab-menu summary")["title"] == "x" * 300


def test_an_administrator_finds_the_administration_and_services():
    html = rendered(
        "home.html",
        user=a_user(),
        default_server=a_spawner(a_user()),
        parsed_scopes={"admin-ui": True},
        services=[SimpleNamespace(href="/services/console/", name=EVIL)],
    )

    links = [link["href"] for link in html.select(".lab-menu a")]
    assert links == ["/services/console/", "/hub/token", "/hub/admin", "/hub/labspawner/admin", "/hub/logout"]
    assert "alert(1)" not in "".join(script.text for script in html.select("script"))


@pytest.mark.parametrize(
    ("sandboxed", "said"), [(False, "not isolated"), (True, "trying it out"), (None, "trying it out")]
)
def test_the_demo_says_on_every_page_whether_servers_are_isolated(sandboxed, said):
    demo = hub.DemoHint(("student1",))
    desk = SimpleNamespace(providers={"local": SimpleNamespace(sandboxed=sandboxed), "sim": SimpleNamespace()})
    user = a_user()
    user.settings = {"labspawner": desk}

    assert said in rendered("logout.html", demo=demo, user=user).select_one(".lab-demo").text


@pytest.mark.parametrize(
    ("groups", "admin", "found"),
    [
        (["instructors"], False, True),
        (["course-dl101-instructors"], False, True),
        (["course-dl101-assistants"], False, True),
        ([], True, True),
        (["course-dl101", "instructors-of-old"], False, False),
        ([], False, False),
    ],
)
def test_who_has_something_to_do_in_the_console_finds_the_way_there(groups, admin, found):
    user = a_user()
    user.settings = {hub.CONSOLE: frozenset({"instructors"})}
    user.admin, user.groups = admin, [SimpleNamespace(name=group) for group in groups]

    page = rendered("home.html", user=user)

    assert [link["href"] for link in page.select("#nav-courses")] == ["/services/labspawner/"] * found


def test_without_a_console_nobody_is_sent_there():
    user = a_user()
    user.admin = True

    assert not rendered("home.html", user=user).select("#nav-courses")


def test_the_demo_says_so_before_log_in_too():
    assert "trying it out" in rendered("logout.html", demo=hub.DemoHint(("student1",))).select_one(".lab-demo").text
    assert rendered("logout.html").select_one(".lab-demo") is None


def test_static_files_are_addressed_with_the_version_of_their_content():
    link = rendered("logout.html").select("link[rel=stylesheet]")[-1]

    assert link["href"].startswith("/hub/labspawner/static/lab.css?v=")
    assert (STATIC_DIR / "lab.css").is_file()


def test_our_page_keeps_every_block_of_jupyterhubs():
    environment = Environment(autoescape=True, extensions=[hub.HtmlLanguage])
    upstream = (Path(DATA_FILES_PATH) / "templates" / "page.html").read_text()
    ours = Path(hub.template_paths()[0], "page.html").read_text()

    names = set(environment.from_string(upstream).blocks)
    replaced = set(environment.from_string(ours.replace('{% extends "templates/page.html" %}', "")).blocks)

    inside_the_header = {
        "logo",
        "nav_bar_left_items",
        "nav_bar_right_items",
        "service",
        "theme_toggle",
        "login_widget",
        "header",
    }
    assert inside_the_header <= names
    assert inside_the_header <= replaced


# -- single pages ---------------------------------------------------------------------------------------------------


def test_the_log_in_page_names_the_demo_accounts():
    html = rendered(
        "login.html", Handler(accept="zh"), hub.DemoHint(("student1", "teacher")), authenticator_login_url="/x"
    )

    assert [code.text for code in html.select(".lab-hint code")] == ["student1", "teacher"]
    assert html.select_one("form")["action"] == "/x"
    assert html.select_one("input[name=_xsrf]")["value"] == "token"


def test_the_log_in_page_says_what_was_wrong_and_keeps_the_name():
    html = rendered("login.html", Handler(accept="zh"), login_error="Invalid username or password", username=EVIL)

    assert html.select_one(".login_error").text == "用户名或密码错误"
    assert html.select_one("#username_input")["value"] == EVIL


def test_the_log_in_page_leads_to_a_service_where_there_is_one():
    html = rendered("login.html", login_service="GitHub", authenticator_login_url="/hub/oauth_login")

    assert html.select_one(".service-login a")["href"] == "/hub/oauth_login"
    assert html.select_one("#username_input") is None


def test_the_log_in_page_asks_for_a_second_factor_and_for_terms_where_wanted():
    authenticator = SimpleNamespace(request_otp=True, otp_prompt="OTP:")
    html = rendered("login.html", authenticator=authenticator, login_term_url="/terms")

    assert html.select_one("#otp_input") is not None
    assert html.select_one("#login_terms a")["href"] == "/terms"


def test_the_spawn_page_says_why_the_last_server_ended():
    user = a_user(engine=Board())
    html = rendered(
        "spawn.html", Handler(accept="zh"), user=user, spawner=user.spawner, spawner_options_form="<b>x</b>"
    )

    assert "7 分钟前结束：Python 笔记本" in html.select_one(".lab-notice").text
    assert "已空闲 46 分钟；此配置的上限是 45 分钟" in html.select_one(".lab-notice").text
    assert html.select_one("#spawn_form b") is not None


@pytest.mark.parametrize(("place", "said"), [(["student1"], "default"), (["student1", "two"], "two"), ([], "default")])
def test_the_spawn_page_speaks_of_the_server_that_it_starts(place, said):
    """JupyterHub passes the default server's spawner whatever is started."""

    class ByName(Board):
        def notice(self, user_name, server_name):
            notice = super().notice(user_name, server_name)
            notice.profile_title = {"en": server_name or "default"}
            return notice

    user, handler = a_user(engine=ByName()), Handler("/hub/spawn")
    user.spawners["two"] = a_spawner(user, name="two")
    handler.path_args = place

    html = rendered("spawn.html", handler, user=user, for_user=user, spawner=user.spawner)

    assert html.select_one(".lab-notice-title").text == f"Your last server ended 7 min ago: {said}"
    assert [line.text for line in html.select(".lab-for")] == (["Named server: two"] if said == "two" else [])


def test_a_named_server_that_is_not_there_yet_leaves_the_page_as_it_is():
    user, handler = a_user(engine=Board()), Handler("/hub/spawn")
    handler.path_args = ["student1", "none"]

    html = rendered("spawn.html", handler, user=user, for_user=user, spawner=user.spawner)

    assert html.select_one("#spawn_form") is not None


def test_without_an_engine_there_is_no_notice():
    user = a_user()

    assert rendered("spawn.html", user=user, spawner=user.spawner).select_one(".lab-notice") is None


@pytest.mark.parametrize(
    "message",
    [
        Sentence("You have no profile {profile}. Pick one from the list.", profile=EVIL),
        f"HTTP 403: Forbidden (You have no profile {EVIL}. Pick one from the list.)",
    ],
)
def test_the_spawn_page_says_in_the_readers_language_what_was_refused(message):
    user = a_user(engine=Board())
    html = rendered("spawn.html", Handler(accept="zh"), user=user, spawner=user.spawner, error_message=message)

    assert f"您没有名为 {EVIL} 的配置" in html.select_one(".spawn-error-msg").text
    assert html.select_one(".lab-notice") is None


def test_the_spawn_page_shows_a_hook_s_own_html_and_for_whom_it_is():
    user = a_user("admin")
    html = rendered(
        "spawn.html", user=user, for_user=a_user("student1"), spawner=user.spawner, error_html_message="<i>no</i>"
    )

    assert html.select_one(".spawn-error-msg i").text == "no"
    assert html.select_one(".lab-for").text == "For student1"


def test_the_progress_page_shows_what_was_done_before_any_script_runs():
    user = a_user(engine=Board())
    spawner = a_spawner(user, pending="spawn", _generate_progress=stages("Preparing your home", "Starting JupyterLab"))

    html = rendered("spawn_pending.html", Handler(accept="zh"), user=user, spawner=spawner, progress_url="/p")

    assert [item.text for item in html.select("#progress-log li")] == ["正在准备您的主目录", "正在启动 JupyterLab"]
    assert html.select_one("[role=progressbar]")["aria-valuenow"] == "20"
    assert html.select_one(".lab-actions form")["action"] == "/hub/labspawner/stop/student1"
    assert html.select_one("noscript meta[http-equiv=refresh]") is not None
    assert html.select_one(".lab-profile").text == "Python notebook"


def test_a_named_server_has_an_address_of_its_own():
    user = a_user()
    spawner = a_spawner(user, pending="spawn", name="a/b ?", _generate_progress=stages())

    html = rendered("spawn_pending.html", user=user, spawner=spawner, progress_url="/p")

    assert html.select_one(".lab-actions form")["action"] == "/hub/labspawner/stop/student1/a%2Fb%20%3F"
    assert html.select("#progress-log li") == []


def test_a_failed_start_is_explained_with_the_servers_last_lines():
    failure = RuntimeError("for the log")
    failure.__cause__ = SystemError("deeper")
    failure.__cause__.log_tail = f"line 1\n{EVIL}\n"

    html = rendered(
        "not_running.html",
        Handler(accept="zh"),
        user=a_user(),
        failed=True,
        failed_message=Sentence("Your server could not be started. Tell your administrator."),
        exception=failure,
        spawn_url="/hub/spawn/student1",
    )

    assert html.select_one(".lab-say").text.strip() == "您的服务器无法启动。请告诉管理员。"
    assert html.select_one(".lab-details pre").text == f"line 1\n{EVIL}"
    assert html.select_one("#start")["href"] == "/hub/spawn/student1"


def test_a_failed_start_without_a_sentence_gets_one_and_no_traceback():
    html = rendered(
        "not_running.html", user=a_user(), failed=True, exception=RuntimeError("secret host"), server_name="two"
    )

    assert "went wrong on our side" in text_of(html)
    assert "secret host" not in html.text
    assert html.select_one(".lab-details") is None
    assert html.select_one(".lab-profile").text == "two"


def test_a_failed_start_may_bring_its_own_html():
    html = rendered("not_running.html", user=a_user(), failed=True, failed_html_message="<i>no</i>")

    assert html.select_one(".lab-say i").text == "no"


def test_a_stopped_server_says_why_and_starts_again_by_itself_where_that_is_set():
    user = a_user(engine=Board())

    html = rendered("not_running.html", user=user, server_name="", implicit_spawn_seconds=3, spawn_url="/hub/spawn")

    assert "Idle" in html.select_one(".lab-notice").text.replace("idle", "Idle")
    assert html.select_one("noscript meta[http-equiv=refresh]")["content"] == "3;url=/hub/spawn"


def test_the_page_of_a_stopping_server_looks_again_by_itself():
    assert rendered("stop_pending.html", user=a_user()).select_one("meta[http-equiv=refresh]") is not None


@pytest.mark.parametrize("code", [400, 401, 403, 404, 405, 409, 418, 424, 429, 500, 502, 503, 504, 599])
def test_an_error_page_says_what_happened_and_what_to_do(code):
    html = rendered("error.html", Handler(accept="zh"), status_code=code, status_message="Words", message="")

    assert not html.select_one("h1").text.isascii()
    assert f"错误 {code}" in text_of(html)
    assert html.select_one(".lab-actions a")["href"] == "/hub/home"


def test_an_error_page_says_our_sentence_in_the_readers_language():
    html = rendered("404.html", Handler(accept="zh"), status_code=404, message=Sentence("The start was cancelled."))

    assert html.select_one(".lab-say").text == "启动已取消。"


def test_an_error_page_may_bring_its_own_html():
    html = rendered("error.html", status_code=400, message_html="<i>no</i>")

    assert html.select_one(".lab-say i").text == "no"


# -- the request, the stages, the wiring ----------------------------------------------------------------------------


def test_a_language_in_the_address_is_remembered():
    handler = Handler("/hub/home?lang=zh-CN", accept="en")

    assert hub.request_language(handler) == "zh-CN"
    assert handler.cookies == {COOKIE: "zh-CN"}


@pytest.mark.parametrize("lang", ["tlh", "zh", ""])
def test_an_unknown_language_in_the_address_changes_nothing(lang):
    handler = Handler(f"/hub/home?lang={lang}", accept="en", cookie="zh-CN")

    assert hub.request_language(handler) == "zh-CN"
    assert handler.cookies == {COOKIE: "zh-CN"}


def test_without_a_request_the_language_is_english():
    assert hub.request_language(None) == "en"
    context: Any = {}
    assert hub.Lab(None).language(context) == "en"
    assert hub.Lab(None).switch_url(context) == "/hub/labspawner/language?to=zh-CN&next=%2Fhub%2Fhome"


def test_a_server_without_a_profile_has_no_title():
    lab, user = hub.Lab(None), a_user()
    context: Any = {}

    assert lab.profile_title(context, a_spawner(user, user_options=None)) == ""
    assert lab.profile_title(context, a_spawner(user, user_options={"profile": ["x"]})) == ""
    assert lab.profile_title(context, a_spawner(user, user_options="x")) == ""
    assert lab.seconds_since_start(a_spawner(user, orm_spawner=None)) == 0
    assert lab.running_for(context, a_spawner(user, orm_spawner=None)) == "0 s"


@pytest.mark.parametrize(
    ("target", "local"),
    [
        ("/hub/home", True),
        ("/hub/spawn?next=/user/x", True),
        ("", False),
        ("home", False),
        ("//evil.example/hub", False),
        ("/\\evil.example", False),
        ("https://evil.example/", False),
        ("javascript:alert(1)", False),
        ("/hub/\r\nSet-Cookie: x=1", False),
    ],
)
def test_a_redirect_stays_on_this_hub(target, local):
    assert is_local_path(target, "/") is local


def test_a_redirect_stays_below_the_hubs_own_prefix():
    assert is_local_path("/lab/hub/home", "/lab/")
    assert not is_local_path("/other/", "/lab/")


async def test_stages_are_told_without_waiting_for_the_next():
    spawner = a_spawner(a_user(), pending="spawn", _generate_progress=stages("Starting JupyterLab", ends=False))

    assert await progress_so_far(spawner, "zh-CN") == [{"progress": 10, "message": "正在启动 JupyterLab"}]


async def test_a_start_that_is_over_has_no_stages():
    assert await progress_so_far(a_spawner(a_user(), pending=None), "en") == []


def stages(*messages: str, ends: bool = True) -> Any:
    async def generate() -> Any:
        yield {"progress": 0, "message": "Server requested"}
        for number, message in enumerate(messages, 1):
            yield {"progress": 10 * number, "message": message}
        yield {"progress": 99}
        if not ends:
            await asyncio.Event().wait()

    return generate


def test_configure_wires_all_of_it():
    c = Config()

    hub.configure(c, demo=hub.DemoHint(("a",)))

    assert c.JupyterHub.template_paths == hub.template_paths()
    assert c.JupyterHub.template_vars["lab"](None).demo.accounts == ("a",)
    assert c.JupyterHub.jinja_environment_options["extensions"] == [hub.HtmlLanguage]
    assert len(c.JupyterHub.extra_handlers) == len(hub.extra_handlers())
