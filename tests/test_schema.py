"""The JSON schema accepts what the reader accepts, as far as a schema can see, and covers every option."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
from ruamel.yaml import YAML

from compresskit.catalogue import load_catalogue
from compresskit.recipe import read_recipe
from compresskit.recipe_files import recipe_text, recipes_shipped
from compresskit.schema import json_schema
from compresskit.verbs import VERBS

TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
UNSEEN = {"description", "default", "title", "$schema", "$defs", "then", "else"}


def of_type(value, name):
    if name in ("integer", "number"):
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole or (name == "number" and isinstance(value, float))
    return isinstance(value, TYPES[name])


def fits(value, schema, root):
    """A validator of the part of JSON Schema that ours uses; an unknown keyword is a KeyError."""
    numeric = of_type(value, "number")
    rules = {
        "$ref": lambda ref: fits(value, root["$defs"][ref.rpartition("/")[2]], root),
        "type": lambda name: of_type(value, name),
        "const": lambda const: value == const,
        "enum": lambda names: value in names,
        "anyOf": lambda schemas: any(fits(value, each, root) for each in schemas),
        "oneOf": lambda schemas: sum(fits(value, each, root) for each in schemas) == 1,
        "allOf": lambda schemas: all(fits(value, each, root) for each in schemas),
        "if": lambda test: fits(value, schema.get("then" if fits(value, test, root) else "else", {}), root),
        "properties": lambda known: (
            not isinstance(value, dict)
            or all(fits(value[key], each, root) for key, each in known.items() if key in value)
        ),
        "required": lambda keys: not isinstance(value, dict) or set(keys) <= set(value),
        "additionalProperties": lambda _: not isinstance(value, dict) or set(value) <= set(schema["properties"]),
        "minProperties": lambda least: not isinstance(value, dict) or len(value) >= least,
        "items": lambda each: not isinstance(value, list) or all(fits(item, each, root) for item in value),
        "minItems": lambda least: not isinstance(value, list) or len(value) >= least,
        "uniqueItems": lambda _: not isinstance(value, list) or len(set(map(str, value))) == len(value),
        "minimum": lambda least: not numeric or value >= least,
        "exclusiveMinimum": lambda least: not numeric or value > least,
        "exclusiveMaximum": lambda most: not numeric or value < most,
        "pattern": lambda pattern: not isinstance(value, str) or re.search(pattern, value) is not None,
    }
    return all(rules[key](argument) for key, argument in schema.items() if key not in UNSEEN)


def load(text):
    return YAML(typ="safe", pure=True).load(text)


@pytest.fixture(scope="module")
def schema():
    return json_schema(load_catalogue([]))


@pytest.mark.parametrize("name", recipes_shipped())
def test_shipped_recipes_fit_as_written_and_as_resolved(schema, name):
    assert fits(load(recipe_text(name)), schema, schema)
    assert fits(load(read_recipe(name).to_yaml()), schema, schema)


@pytest.mark.parametrize(
    ("step", "right"),
    [
        ("{prune: heads, by: magnitude, keep: 1/6}", True),
        ("{prune: heads, by: magnitude, keep: 0.5}", True),
        ("{prune: heads, by: magnitude, keep: 0}", False),
        ("{prune: heads, by: magnitude, kep: 1}", False),
        ("{prune: heads, by: tailor, keep: 1}", False),
        ("{prune: heads, keep: 1}", False),
        ("{prune: layers, keep: [1, 2]}", True),
        ("{prune: heads, by: taylor, keep: 1, with: {reading: paper}}", True),
        ("{prune: heads, by: taylor, keep: 1, with: {reading: papr}}", False),
        ("{prune: heads, by: magnitude, keep: 1, with: {reading: paper}}", False),
        ("{exit: all, by: entropy, with: {threshold: 0.3}}", True),
        ("{exit: [2, 4], by: entropy, with: {threshold: 0.3}}", True),
        ("{exit: all, by: entropy}", False),
        ("{exit: all, by: entropy, with: {threshold: -1}}", False),
        ("{finetune: {epochs: 1, save_as: null}}", True),
        ("{finetune: {epochs: 0}}", False),
        ("{finetune: {}}", False),
        ("{finetune: {epochs: 1}, epochs: 1}", False),
        ("{finetune: {epochs: 1, line: 3}}", False),
        ("{distill: a/b, by: labels, epochs: 1}", True),
        ("{distill: a/b, by: [labels, predictions], epochs: 1}", True),
        ("{distill: a/b, by: {predictions: {weight: 1, with: {temperature: 2}}}, epochs: 1}", True),
        ("{distill: a/b, by: {predictions: {weight: 1, with: {temperature: 0}}}, epochs: 1}", False),
        ("{distill: a/b, by: {predictions: 0}, epochs: 1}", False),
        ("{distill: a/b, epochs: 1}", False),
        ("{repeat: 2, steps: [{factorize: word-embeddings, by: svd, rank: 3}]}", True),
        ("{repeat: 2, steps: [{repeat: 2, steps: [{factorize: word-embeddings, by: svd, rank: 3}]}]}", False),
        ("{factorize: layers, by: svd, rank: 3}", False),
        ("{factorize: embeddings, by: svd, rank: 1/6}", True),
        ("{share: layers}", True),
        ("{share: layers, groups: 3, start: first}", True),
        ("{share: layers, groups: 0}", False),
        ("{share: heads}", False),
        ("{prune: heads, exit: all, by: magnitude, keep: 1}", False),
    ],
)
def test_steps(schema, step, right):
    assert fits({"recipe": 1, "steps": [load(step)]}, schema, schema) is right


@pytest.mark.parametrize(
    ("text", "right"), [("recipe: 2", False), ("recipe: 1", True), ("seed: 1", False), ("recipe: 1\nnmae: a", False)]
)
def test_top(schema, text, right):
    steps = {"steps": [{"prune": "layers", "keep": [1]}]}
    assert fits(load(text) | steps, schema, schema) is right


def test_every_option_is_there_and_described(schema):
    steps = schema["properties"]["steps"]["items"]["oneOf"]
    for step, verb in zip(steps, VERBS.values(), strict=True):
        described = step["properties"]["finetune"] if verb.name == "finetune" else step
        assert set(described["properties"]) - {"with"} == set(verb.options())
        assert all(option["description"] for option in described["properties"].values())
    written = json.dumps(schema)
    for entry in load_catalogue([]).entries():
        if isinstance(entry.what, type):
            assert all(f'"{field.name}"' in written for field in dataclasses.fields(entry.what))
