"""Judge one suite's JUnit file: `verdict.py FILE AGE SUITE`. Exit 0 when as many tests passed as must, and none failed.

One error is not ours: with JupyterHub 5.3 and its own SimpleLocalProcessSpawner, too, the event loop of
test_pages sometimes ends with `InvalidStateError: Exception is not set` after the last test has passed.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree

MUST_PASS = {
    "oldest": {"test_spawner": 35, "test_named_servers": 17, "test_api": 31, "test_pages": 36, "ours": 140},
    "newest": {"test_spawner": 35, "test_named_servers": 34, "test_api": 42, "test_pages": 41},
}
KNOWN_TEARDOWN = "InvalidStateError: Exception is not set"


def main(path: str, age: str, suite: str) -> int:
    cases = list(ElementTree.parse(path).iter("testcase"))
    failed = [case.get("name") for case in cases if case.find("failure") is not None]
    errors = [case.find("error") for case in cases if case.find("error") is not None]
    strange = [error for error in errors if KNOWN_TEARDOWN not in (error.get("message") or "") + (error.text or "")]
    bad = len(failed) + len(strange)
    ran = {case.get("name") for case in cases if case.find("failure") is None and case.find("skipped") is None}
    passed = len(ran - {case.get("name") for case in cases if case.find("error") in strange})
    must = MUST_PASS[age][suite]
    print(f"== {age} {suite}: {passed} passed of at least {must}, {bad} failed {failed or ''}")
    return 0 if bad == 0 and passed >= must else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
