"""The REST API, below `api/v1/`: one table of routes, which the OpenAPI document is made of too."""

from __future__ import annotations

from labspawner.service.console.api.about import ROUTES as ABOUT
from labspawner.service.console.api.admin import ROUTES as ADMIN
from labspawner.service.console.api.courses import ROUTES as COURSES
from labspawner.service.console.api.klass import ROUTES as CLASS
from labspawner.service.console.api.people import ROUTES as PEOPLE
from labspawner.service.console.api.revisions import ROUTES as REVISIONS
from labspawner.service.console.api.route import Route

ROUTES: tuple[Route, ...] = (*ABOUT, *COURSES, *REVISIONS, *PEOPLE, *CLASS, *ADMIN)
