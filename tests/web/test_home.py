"""The home page in a real browser: as it looks in every state, and alive in front of the real product."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from jupyterhub._data import DATA_FILES_PATH
from unit.courses.course_files import a_course, a_profile, a_snapshot
from unit.pages.rendering import NOW, FullDesk, a_running_user, a_spawner, a_user, home, pinned
from unit.pages.test_home import GIB, LEASE, a_ready_lease, busy_for, no_stages
from web.steps import end
from web.test_student import VIEWS, choose, fits, log_in

from labspawner.lifecycle.usages import Use
from labspawner.model import LeaseId, Phase, Usage
from labspawner.pages.handlers import STATIC_DIR
from labspawner.pages.home.facts import Extension
from labspawner.testing.waiting import eventually_sync

pytestmark = [pytest.mark.web, pytest.mark.hub, pytest.mark.timeout(900)]

USE = Use(Usage(taken_at=NOW, memory_bytes=int(3.9 * GIB), memory_limit_bytes=4 * GIB, cpu_limit=2.0), 0.43)


def a_busy_user():
    """A default server at work, a named one about to be stopped, and a parked one."""
    named = a_ready_lease(
        id=LeaseId("bbbbbbbbbbbbbbbb"), server_name="second", pinned=pinned(after_s=1200, max_age_s=7240)
    )
    parked = a_ready_lease(
        id=LeaseId("cccccccccccccccc"), server_name="second", phase=Phase.PARKED, pinned=pinned(retain_s=14 * 86400)
    )
    desk = FullDesk(
        a_ready_lease(),
        named,
        parked,
        uses={LEASE: USE, named.id: Use(Usage(taken_at=NOW, memory_bytes=GIB // 2, cpu_s=9.0, cpu_limit=1.0))},
        known={LEASE: busy_for(3)},
        extension=Extension(step_s=1800, left_today=0),
    )
    user = a_running_user(desk)
    second = a_spawner(user, name="second", display_name="Second server", active=True, ready=True)
    second.orm_spawner = user.spawner.orm_spawner
    user.spawners["second"] = second
    user.all_spawners = lambda include_default: [second]
    return user


def an_idle_user():
    profile = a_profile(title={"en": "Python notebook", "zh-CN": "Python 笔记本"})
    user = a_user(engine=FullDesk(notice="", snapshot=a_snapshot(a_course("py101", profile))))
    user.admin = True
    return user


def a_starting_user():
    user = a_user(engine=FullDesk(a_ready_lease(phase=Phase.LAUNCHING, ready_at=None)))
    user.spawner.__dict__.update(active=True, pending="spawn", _generate_progress=no_stages)
    return user


def in_a_thread(function, *arguments, **named):
    """Rendering runs an event loop of its own, and Playwright's runs in this thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *arguments, **named).result()


# The page looks again by itself after seconds; here it looks when a test says so, and no sooner where that is slow.
ONLY_WHEN_ASKED = """
const real = window.setTimeout;
window.looked = 0;
window.setTimeout = (work, ms, ...more) => {
  if (ms < 2000) return real(work, ms, ...more);
  if (ms !== 8000) window.looked += 1; // not how long an answer may take, but when to look again: a look is over
  return 0;
};
"""
STATES = {"busy": a_busy_user, "idle": an_idle_user, "starting": a_starting_user}


@pytest.fixture
def draw(chromium):
    """Shows a page that was rendered without a hub, with the hub's own style sheets and scripts."""
    folders = {"/hub/static/": Path(DATA_FILES_PATH) / "static", "/hub/labspawner/static/": STATIC_DIR}
    contexts = []

    def drawn(html, language="en", width=1280, theme="light"):
        context = chromium.new_context(
            base_url="http://hub.test", locale=language, viewport={"width": width, "height": 800}, color_scheme=theme
        )
        contexts.append(context)
        context.set_default_timeout(240_000)
        context.add_init_script(ONLY_WHEN_ASKED)

        def answer(route):
            path = re.sub(r"^https?://[^/]+|\?.*$", "", route.request.url)
            for prefix, folder in folders.items():
                file = folder / path.removeprefix(prefix)
                if path.startswith(prefix) and file.is_file():
                    return route.fulfill(path=file)
            return route.fulfill(body=str(html), content_type="text/html") if path == "/hub/home" else route.abort()

        context.route("**/*", answer)
        page = context.new_page()
        page.goto("/hub/home")
        return page

    yield drawn
    for context in contexts:
        context.close()


@pytest.mark.parametrize("state", STATES)
def test_each_state_fits_a_phone_and_a_desk_in_both_languages_light_and_dark(draw, screenshots, state):
    for language, width, theme in VIEWS:
        html = in_a_thread(home, STATES[state](), language, allow_named_servers=True)
        page = draw(html, language, width, theme)

        assert fits(page)
        page.screenshot(path=screenshots / f"home-{state}-{language}-{width}-{theme}.png", full_page=True)
        for element in page.locator("#lab-servers a, #lab-servers button, #lab-servers summary").all():
            assert not element.is_visible() or element.evaluate("e => e.innerText.trim()") != ""


# -- what the script does, in front of a hub that answers as a test says ------------------------------------------------


def answers(page, html, user="student1", status=200):
    """What the hub says from now on when the page looks again."""
    body = {
        "v": 1,
        "user": user,
        "servers": [
            {
                "name": panel["data-name"],
                "key": panel["data-key"],
                "state": panel["data-state"],
                "spoken": panel["data-spoken"],
            }
            for panel in html.select("section.lab-server")
        ],
        "html": html.select_one("#lab-servers").decode_contents(),
    }
    page.route("**/hub/labspawner/home", lambda route: route.fulfill(status=status, json=body))


def look_again(page):
    with page.expect_response("**/hub/labspawner/home"):
        page.evaluate("window.dispatchEvent(new Event('online'))")


def test_fresh_data_leave_the_focus_and_an_open_question_where_they_are(draw):
    before = in_a_thread(home, a_busy_user())
    page = draw(before)
    page.click(".lab-confirm summary")
    page.focus("#lab-stop")
    page.evaluate("document.querySelector('#lab-stop').mine = 'yes'")
    after = in_a_thread(home, a_busy_user())
    after.select_one(".lab-meter-words span:last-child").string = "1.0 of 4 GiB"
    answers(page, after)

    look_again(page)

    page.locator("text=1.0 of 4 GiB").wait_for()
    assert page.evaluate("document.activeElement.mine") == "yes"
    assert page.locator("#lab-stop").is_visible()


def test_what_changed_is_said_once_to_those_who_listen(draw):
    page = draw(in_a_thread(home, a_busy_user()))
    answers(page, in_a_thread(home, an_idle_user()))

    look_again(page)

    page.locator("section[data-state=off]").wait_for()
    assert page.locator("#lab-spoken").inner_text() == "Your server: Not running. second does not run any more."
    assert page.locator("section.lab-server").count() == 1


def test_instants_follow_the_clock_of_the_reader(draw, chromium):
    page = draw(in_a_thread(home, a_busy_user()))

    said = page.locator(".lab-since time").first
    expected = page.evaluate(
        "at => new Date(at).toLocaleTimeString('en', {hour: '2-digit', minute: '2-digit', hourCycle: 'h23'})",
        said.get_attribute("datetime"),
    )

    assert said.inner_text().endswith(expected)
    assert "am" not in said.inner_text().lower()


def test_who_is_logged_out_meanwhile_is_told_and_led_to_the_log_in(draw):
    page = draw(in_a_thread(home, an_idle_user(), "zh-CN"), "zh-CN", 360, "light")
    answers(page, in_a_thread(home, an_idle_user()), status=403)

    look_again(page)

    page.locator("#lab-trouble a").wait_for()
    assert page.locator("#lab-trouble").inner_text() == "您在此处已退出登录。 登录"
    assert fits(page)


def test_somebody_else_in_another_tab_is_told(draw):
    page = draw(in_a_thread(home, an_idle_user()))
    answers(page, in_a_thread(home, an_idle_user()), user="<b>mallory</b>")

    look_again(page)

    page.locator("#lab-trouble a", has_text="Load the page again").wait_for()
    assert "in another tab: <b>mallory</b>" in page.locator("#lab-trouble").inner_text()


def test_a_hub_that_restarts_is_told_after_two_misses_and_its_return_too(draw):
    page = draw(in_a_thread(home, a_busy_user()))
    page.route("**/hub/labspawner/home", lambda route: route.fulfill(status=503, body="<html>503</html>"))

    before = page.evaluate("window.looked")
    look_again(page)
    page.wait_for_function("before => window.looked > before", arg=before)  # a page that looks does not look again
    assert page.locator("#lab-trouble").is_hidden()
    look_again(page)
    page.locator("#lab-trouble", has_text="Servers that run go on").wait_for()

    answers(page, in_a_thread(home, a_busy_user()))
    look_again(page)
    page.locator("#lab-said", has_text="The hub answers again.").wait_for()
    assert page.locator("#lab-trouble").is_hidden()


HOLD, SPAWN = "**/hub/labspawner/place", "**/hub/spawn/student1**"


def holding(draw, status):
    """The idle home page in front of a hub that answers a hold in this way, and what it was asked."""
    page, posted = draw(in_a_thread(home, an_idle_user_again())), []
    page.set_default_timeout(240_000)

    def answer(route):
        posted.append(
            (route.request.method, re.sub(r"^https?://[^/]+", "", route.request.url), route.request.post_data)
        )
        route.fulfill(status=status if "place" in route.request.url else 200, json={"v": 1, "profiles": {}})

    page.route(HOLD, answer)
    page.route(SPAWN, answer)
    return page, posted


def an_idle_user_again():
    user = an_idle_user()
    user.spawner.user_options = {"profile": f"py101/{a_profile()['slug']}"}
    return user


def test_starting_again_keeps_a_place_before_the_form_is_posted(draw):
    page, posted = holding(draw, 200)

    page.click("#lab-again")
    page.wait_for_url(SPAWN)

    assert [(method, path) for method, path, _ in posted] == [
        ("POST", "/hub/labspawner/place"),
        ("POST", "/hub/spawn/student1"),
    ]
    assert all("profile=py101%2F" in data for _, _, data in posted)
    assert "_xsrf=token" in posted[0][2]


def test_starting_again_what_was_just_taken_leads_to_the_page_that_says_so_and_starts_nothing(draw):
    page, posted = holding(draw, 409)

    page.click("#lab-again")
    page.wait_for_url(SPAWN)

    assert [method for method, _, _ in posted] == ["POST", "GET"]
    assert posted[1][1].startswith("/hub/spawn/student1?profile=py101%2F")


def test_a_hold_that_is_refused_for_another_reason_keeps_nobody_from_starting(draw):
    page, posted = holding(draw, 503)

    page.click("#lab-again")
    page.wait_for_url(SPAWN)

    assert [method for method, _, _ in posted] == ["POST", "POST"]


def test_a_refused_extension_says_why_and_can_be_tried_again(draw):
    user = a_busy_user()
    user.settings["labspawner"].answers["extension"] = Extension(step_s=1800, left_today=1)
    html = in_a_thread(home, user)
    page = draw(html)
    answers(page, html)
    page.route(
        "**/labspawner/extend/student1",
        lambda route: route.fulfill(status=409, json={"message": "Not any more today."}),
    )

    page.click("#lab-extend")

    page.locator("#lab-said", has_text="Not any more today.").wait_for()
    eventually_sync(lambda: page.locator("#lab-extend").is_enabled(), 10, "the button can be clicked again")


# -- in front of the real product ---------------------------------------------------------------------------------------


def test_a_server_is_watched_stopped_and_started_again_without_leaving_the_page(open_page, stalls, screenshots):
    page = open_page()
    stalls("boot")
    log_in(page, "student2")
    choose(page, "py101/quick", "student2")
    page.goto("/hub/home")
    page.evaluate("window.marker = 1")

    page.locator("section[data-state=starting]").wait_for()
    stalls(None)
    page.locator("section[data-state=running]").wait_for()
    assert page.locator("section.lab-server h2").inner_text() == "A quick start"
    assert "Python Basics" in page.locator(".lab-of").inner_text()
    page.locator(".lab-end", has_text=re.compile(r"\b4\d min")).wait_for()  # less with each minute of a slow page
    page.locator(".lab-meter", has_text="Memory").wait_for()
    page.locator(".lab-meter", has_text="of 1 core").wait_for()
    page.screenshot(path=screenshots / "home-real-en-1280-light.png", full_page=True)

    with page.context.expect_page() as opened:
        page.click("#start")
    assert "/user/student2/" in opened.value.url
    opened.value.close()

    page.click("#lab-stop")
    page.locator("section[data-state=off]").wait_for()
    assert page.evaluate("window.marker") == 1

    stalls("boot")
    page.locator("#lab-again", has_text="Start A quick start again").click()
    page.wait_for_url("**/hub/spawn-pending/**")
    page.click("#lab-cancel")
    end(page)


def test_a_second_tab_learns_that_the_server_was_stopped(open_page, stalls):
    page = open_page()
    stalls("boot")
    log_in(page, "student3")
    choose(page, "py101/quick", "student3")
    page.goto("/hub/home")
    page.locator("section[data-state=starting]").wait_for()
    stalls(None)
    page.locator("section[data-state=running]").wait_for()
    other = page.context.new_page()
    other.goto("/hub/home")

    page.click("#lab-stop")
    page.locator("section[data-state=off]").wait_for()
    other.bring_to_front()

    other.locator("section[data-state=off]").wait_for()
    end(page)


def test_the_address_of_fresh_data_is_for_its_owner_alone(open_page, product):
    page = open_page()

    assert page.request.get("/hub/labspawner/home").status == 403
    log_in(page, "student1")
    answer = page.request.get("/hub/labspawner/home")

    assert answer.json()["user"] == "student1"
    assert answer.headers["cache-control"] == "no-store"


def test_extending_what_does_not_run_is_refused_with_a_sentence(open_page):
    page = open_page()
    log_in(page, "student1")
    page.goto("/hub/home")
    xsrf = page.evaluate("document.querySelector('[name=_xsrf]')?.value ?? window.jhdata.xsrf_token")

    refused = page.request.post(
        "/hub/labspawner/extend/student1", form={"_xsrf": xsrf}, headers={"Accept": "application/json"}
    )
    as_page = page.request.post("/hub/labspawner/extend/student1", form={"_xsrf": xsrf})
    strangers = page.request.post("/hub/labspawner/extend/student2", form={"_xsrf": xsrf})
    without_token = page.request.post("/hub/labspawner/extend/student1")

    assert refused.status == 404
    assert "does not run any more" in refused.json()["message"]
    assert (as_page.status, strangers.status, without_token.status) == (404, 404, 403)
    assert "does not run any more" in as_page.text()
