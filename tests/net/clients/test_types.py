from __future__ import annotations

import pytest

from skeg.errors import ParameterError
from skeg.net.clients.types import Hit, VectorBackend, VectorKind, VectorKindV2


def test_a_hit_has_no_payload_unless_it_has():
    assert (7, 0.5, None) == Hit(7, 0.5)
    assert b"p" == Hit(id=7, score=0.5, payload=b"p").payload


@pytest.mark.parametrize(
    ("code", "name", "value"),
    [
        (VectorKind, "F32", 0),
        (VectorKind, "float32", 0),
        (VectorKind, "int8", 1),
        (VectorKind, "bin", 2),
        (VectorKind, "pq", 3),
        (VectorKindV2, "binary", 2),
        (VectorKindV2, "tq1", 3),
        (VectorKindV2, "TurboQuant-2", 4),
        (VectorKindV2, "tq4", 5),
        (VectorBackend, "flat", 0),
        (VectorBackend, "disk", 1),
        (VectorBackend, "vamana", 1),
    ],
)
def test_codes_have_names(code, name, value):
    assert code(value) is code.from_string(name)


@pytest.mark.parametrize(("code", "name"), [(VectorKind, "tq1"), (VectorKindV2, "pq"), (VectorBackend, "")])
def test_other_names_are_refused(code, name):
    with pytest.raises(ParameterError, match=code.__name__):
        code.from_string(name)
