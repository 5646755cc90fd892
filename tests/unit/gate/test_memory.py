from __future__ import annotations

import gc
import logging

from labspawner.gate import hush, keep, relax
from labspawner.gate.memory import THRESHOLDS


def test_a_relaxed_collector_still_collects_but_seldom():
    before = gc.get_threshold()
    try:
        relax()

        assert gc.isenabled()
        assert gc.get_threshold() == THRESHOLDS
        assert gc.get_freeze_count() > 0
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def test_what_is_kept_is_not_looked_at_again():
    before = gc.get_freeze_count()
    try:
        keep()

        assert gc.get_freeze_count() > before
    finally:
        gc.unfreeze()


def test_lines_that_no_handler_takes_are_not_made():
    log = logging.Logger("hub", logging.DEBUG)
    log.addHandler(quiet := logging.StreamHandler())
    quiet.setLevel(logging.INFO)

    hush(log)

    assert not log.isEnabledFor(logging.DEBUG)
    assert log.isEnabledFor(logging.INFO)


def test_who_asks_for_lines_of_debugging_gets_them():
    log = logging.Logger("hub", logging.DEBUG)
    for level in (logging.INFO, logging.DEBUG):
        log.addHandler(handler := logging.StreamHandler())
        handler.setLevel(level)

    hush(log)

    assert log.isEnabledFor(logging.DEBUG)


def test_loggers_that_do_not_write_there_are_left_alone(monkeypatch):
    other = logging.getLogger("oauthlib")
    monkeypatch.setattr(other, "parent", logging.getLogger())
    before, log = other.level, logging.Logger("hub", logging.DEBUG)
    log.addHandler(handler := logging.StreamHandler())
    handler.setLevel(logging.INFO)

    hush(log)

    assert other.level == before


def test_loggers_that_write_there_are_hushed_too(monkeypatch):
    log, tornado = logging.Logger("hub", logging.DEBUG), logging.getLogger("tornado")
    log.addHandler(handler := logging.StreamHandler())
    handler.setLevel(logging.INFO)
    monkeypatch.setattr(tornado, "parent", log)
    before = tornado.level
    tornado.setLevel(logging.DEBUG)
    try:
        hush(log)

        assert tornado.level == logging.INFO
    finally:
        tornado.setLevel(before)
