"""The OpenAPI document says what the route table does, and no request that it allows breaks the service."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator

import jsonschema
import pytest
from unit.console.lab import Lab, a_lab, said, serving, text_of

from labspawner.service.console.api import ROUTES, models
from labspawner.service.console.api.openapi import document
from labspawner.service.console.api.route import ONE

PREFIX = "/services/labspawner/"
METHODS = {"get", "post", "put", "patch", "delete"}


def test_every_address_and_method_of_the_table_is_in_the_document_and_no_other():
    told = document(ROUTES, prefix=PREFIX)

    assert {f"/{route.path}": set(route.operations) for route in ROUTES} == {
        path: set(item) & METHODS for path, item in told["paths"].items()
    }
    names = [
        operation["operationId"]
        for item in told["paths"].values()
        for name, operation in item.items()
        if name in METHODS
    ]
    assert len(set(names)) == len(names)


def test_the_table_names_exactly_the_methods_that_handlers_have():
    for route in ROUTES:
        own = {name for name in METHODS if name in vars(route.handler) or _of_ours(route.handler, name)}
        assert own == set(route.operations), route.path


def _of_ours(handler: type, name: str) -> bool:
    found = inspect.getattr_static(handler, name)
    return getattr(found, "__module__", "").startswith("labspawner.")


def test_every_operation_says_how_it_refuses_and_that_is_a_problem():
    told = document(ROUTES, prefix=PREFIX)

    for path, item in told["paths"].items():
        for method, operation in item.items():
            if method not in METHODS:
                continue
            refused = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
            assert {"400", "401", "404", "413", "503"} <= set(refused), path
            assert all(list(answer["content"]) == ["application/problem+json"] for answer in refused.values())
            guarded = any(parameter["name"] == "If-Match" for parameter in operation.get("parameters", ()))
            assert guarded == ({"412", "428"} <= set(refused))
            if method in {"put", "patch"}:
                assert guarded, path


def test_whatever_is_sent_refuses_fields_that_it_does_not_know():
    told = document(ROUTES, prefix=PREFIX)["components"]["schemas"]

    for route in ROUTES:
        for operation in route.operations.values():
            if operation.takes is not None:
                assert issubclass(operation.takes, models.Sent)
                assert told[operation.takes.__name__]["additionalProperties"] is False


def test_the_document_is_json_schema_of_its_dialect_and_every_reference_leads_somewhere():
    told = document(ROUTES, prefix=PREFIX)

    for schema in told["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    text = json.dumps(told)
    for name in {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}:
        assert name in told["components"]["schemas"]


def test_what_stands_in_a_path_has_a_pattern():
    for route in ROUTES:
        assert all(field in ONE for field in route.fields), route.path


async def test_answers_are_what_the_document_says(tmp_path):
    """Each GET of a lab with something in it, against its schema."""
    async with a_lab(tmp_path) as lab:
        await lab.a_course()
        await lab.ask("POST", "courses/dl/roster/add", body={"names": ["student1"]})
        job = said(await lab.ask("POST", "courses/dl/jobs", body={"verb": "extend", "users": ["student1"]}))["id"]
        told = document(ROUTES, prefix=PREFIX)
        filled = {"slug": "dl", "profile": "gpu", "number": "1", "job": job}
        for route in ROUTES:
            operation = route.operations.get("get")
            if operation is None or operation.gives_type != "application/json":
                continue
            query = "?old=1&new=1&profile=gpu" if route.path.endswith(("diff", "links")) else ""
            answer = await lab.ask("GET", route.path.format(**filled) + query, "boss")
            assert answer.code == operation.status, (route.path, answer.body)
            assert operation.gives is not None
            schema = {
                "$ref": f"#/components/schemas/{operation.gives.__name__}",
                "components": told["components"],
            }
            jsonschema.validate(said(answer), schema, cls=jsonschema.Draft202012Validator)


# -- schemathesis ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Lab]:
    """A console with a course: schemathesis asks and waits."""
    with serving(tmp_path_factory.mktemp("served")) as lab:
        yield lab


def test_no_request_that_the_document_allows_breaks_the_service(served):
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is in the extra `dev`")
    import hypothesis
    from schemathesis import GenerationMode

    told = document(ROUTES, prefix=PREFIX)
    base = f"{served.base}api/v1"
    told["servers"] = [{"url": base}]
    known = {"slug": "dl", "profile": "gpu", "number": "1", "job": "j1", "text": text_of()}
    schema = schemathesis.openapi.from_dict(told)
    schema.config.generation.update(modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
    tried: dict[str, int] = {}

    def attempt(operation):
        @hypothesis.settings(
            max_examples=8,
            database=None,
            deadline=None,
            derandomize=True,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy())
        def one(case):
            for name in case.path_parameters or {}:
                if name in known and len(tried) % 3:
                    case.path_parameters[name] = known[name]
            case.headers = {**(case.headers or {}), "Authorization": "token token-of-boss"}
            answer = case.call(base_url=base, timeout=120)
            tried[operation.label] = tried.get(operation.label, 0) + 1
            assert answer.status_code < 500, (operation.label, case.as_curl_command(), answer.text[:500])
            if answer.status_code >= 400 and answer.status_code not in {404}:
                assert answer.headers.get("content-type") == ["application/problem+json"], answer.headers

        one()

    for result in schema.get_all_operations():
        operation = result.ok()
        if not operation.path.endswith("/events"):
            attempt(operation)

    assert len(tried) >= 25
