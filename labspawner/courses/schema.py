"""The course file as JSON Schema, for editors and other programs."""

from __future__ import annotations

from typing import Any

from labspawner.courses.models import Course

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def course_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a course file in our own words; KubeSpawner's are read too, but not advertised.

    It is a little wider than `labspawner profiles lint`, which also checks what stands in two places (slugs that are
    there twice, a warning that comes too early).
    """
    schema = Course.model_json_schema(by_alias=True, mode="validation")
    hours = schema["$defs"]["Hours"]["properties"]["timezone"]
    hours.pop("default", None)
    for name in ("groups", "staff"):
        schema["$defs"]["Access"]["properties"][name].pop("default", None)
    return {"$schema": DIALECT, **schema, "title": "labspawner course file"}
