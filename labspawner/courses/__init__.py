"""Courses and their profiles: read from files, checked, chosen from, and pinned to a lease."""

from labspawner.courses.bounds import Bounds, Ceilings, groups_of
from labspawner.courses.catalog import Catalog, Snapshot, WrittenText, helps, is_staff, may_see
from labspawner.courses.choice import Choice, field_name, options_from_form, parse_choice
from labspawner.courses.fields import in_language
from labspawner.courses.loader import Loaded, Problem, check_providers, parse_course, read_course
from labspawner.courses.models import Course, Option, Profile, Variant, from_profile_list, next_opening, open_at
from labspawner.courses.resolve import ResolvedVariant, pin, resolve, resolve_profile, revision
from labspawner.courses.schema import course_schema
from labspawner.courses.written import check_written

__all__ = [
    "Bounds",
    "Catalog",
    "Ceilings",
    "Choice",
    "Course",
    "Loaded",
    "Option",
    "Problem",
    "Profile",
    "ResolvedVariant",
    "Snapshot",
    "Variant",
    "WrittenText",
    "check_providers",
    "check_written",
    "course_schema",
    "field_name",
    "from_profile_list",
    "groups_of",
    "helps",
    "in_language",
    "is_staff",
    "may_see",
    "next_opening",
    "open_at",
    "options_from_form",
    "parse_choice",
    "parse_course",
    "pin",
    "read_course",
    "resolve",
    "resolve_profile",
    "revision",
]
