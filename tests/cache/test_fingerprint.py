"""Fingerprints: pinned, blind to order, and differences that name the field."""

import math

import pytest

from cache.fingerprint import differences, fingerprint

SETTINGS = {"product": "boxes", "settings": {"policy": "entropy", "size": [32, 48], "maps": {"objective": "entropy"}}}


def test_fingerprint_is_pinned():
    # sha256 of {"product":"boxes","settings":{"maps":{"objective":"entropy"},"policy":"entropy","size":[32,48]}}
    assert fingerprint(SETTINGS) == "6c55cbda49522d0e"


def test_order_of_fields_and_tuples_do_not_matter_values_do():
    assert fingerprint({"a": 1, "b": (2, 3)}) == fingerprint({"b": [2, 3], "a": 1})
    assert fingerprint({"size": [32, 48]}) != fingerprint({"size": [48, 32]})
    assert fingerprint({"a": 1}) != fingerprint({"a": 1.0})


def test_what_json_cannot_say_is_refused():
    with pytest.raises(ValueError, match="Out of range"):
        fingerprint({"scale": math.nan})
    with pytest.raises(TypeError):
        fingerprint({"path": object()})


@pytest.mark.parametrize(
    ("a", "b", "lines"),
    [
        ({"boxes": {"size": 128}}, {"boxes": {"size": 96}}, ["boxes.size: 128 != 96"]),
        ({"a": 1, "b": 2}, {"a": 1, "b": 2}, []),
        ({"a": {"x": 1}}, {"a": 3}, ["a: {'x': 1} != 3"]),
        ({"seed": 0}, {}, ["seed: 0 != (absent)"]),
        ({}, {"seed": None}, ["seed: (absent) != None"]),
        ({"b": 1, "a": [1, 2]}, {"b": True, "a": [2, 1]}, ["a: [1, 2] != [2, 1]", "b: 1 != True"]),
    ],
)
def test_differences_name_every_field(a, b, lines):
    assert differences(a, b) == lines
    assert (fingerprint(a) == fingerprint(b)) == (not lines)
