"""The kit is a library, so pytest must be told to explain its assertions."""

import pytest

pytest.register_assert_rewrite("labspawner.testing.conformance")
