"""The JSON schema of recipes, for editors and for the reference. It follows from the verbs and the catalogue."""

from __future__ import annotations

from typing import Any, cast

from compresskit.catalogue import Catalogue, load_catalogue, options_of
from compresskit.interfaces import Distiller
from compresskit.verbs import VERBS, Finetune, Prune, Repeat, Verb

Schema = dict[str, Any]


def json_schema(catalogue: Catalogue | None = None) -> Schema:
    """Covers the verbs, their options, and those of every strategy in the catalogue (the installed ones by default).

    Order and counts are checked by `read_recipe` and `plan`, not here.
    """
    catalogue = catalogue or load_catalogue()
    outer = [_step(verb, catalogue) for verb in VERBS.values()]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "compresskit recipe",
        "type": "object",
        "properties": {
            "recipe": {"const": 1, "description": "The recipe format."},
            "name": {"type": "string", "description": "What the recipe is called; its file's name by default."},
            "about": {"type": "string", "description": "What it makes, and from which paper."},
            "seed": {"type": "integer", "minimum": 0, "default": 42, "description": "Of everything random in the run."},
            "steps": {"type": "array", "minItems": 1, "items": {"oneOf": outer}},
        },
        "required": ["recipe", "steps"],
        "additionalProperties": False,
        "$defs": {
            "losses": _losses(catalogue),
            "inner": {"oneOf": [_step(verb, catalogue) for verb in VERBS.values() if verb is not Repeat]},
        },
    }


def _step(verb: type[Verb], catalogue: Catalogue) -> Schema:
    schema = verb.model_json_schema(by_alias=True)
    properties = {key: _untitled(value) for key, value in schema["properties"].items() if key in verb.options()}
    described = {key: value.get("description", "") for key, value in properties.items()}
    for key in verb.losses:
        properties[key] = {"$ref": "#/$defs/losses", "description": described[key]}
    required = [key for key in schema.get("required", []) if key in properties]
    result: Schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    if verb is Repeat:
        inner = {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/inner"}}
        properties["steps"] = {**inner, "description": described["steps"]}
    for key, kind in verb.slots.items():
        properties[key] = {"enum": catalogue.names(kind), "description": described[key]}
        properties["with"] = {"type": "object", "description": "Options of the strategy."}
        result["allOf"] = [_when(key, name, _options(catalogue, kind, name)) for name in catalogue.names(kind)]
    for key, kind in verb.parts.items():
        names = catalogue.names(kind)
        if not names:  # no plugin offers any
            properties[key] = {"not": {}, "description": described[key]}
            continue
        below = {name: _options(catalogue, kind, name) for name in names}
        full = {"type": "object", "properties": below, "additionalProperties": False}
        limits = {"minProperties": 1, "maxProperties": 1}
        properties[key] = {"anyOf": [{"enum": names}, {**full, **limits}], "description": described[key]}
    if verb is Prune:
        layers = {"properties": {"prune": {"const": "layers"}}}
        result["allOf"].append({"if": layers, "else": {"required": ["by"]}})
    if verb is Finetune:
        result = {"type": "object", "properties": {"finetune": result}, "required": ["finetune"]}
    return {**result, "description": schema["description"], "additionalProperties": False}


def _when(key: str, name: str, options: Schema) -> Schema:
    said = {"properties": {key: {"const": name}}, "required": [key]}
    needed = {"required": ["with"]} if options.get("required") else {}
    return {"if": said, "then": {"properties": {"with": options}, **needed}}


def _options(catalogue: Catalogue, kind: str, name: str) -> Schema:
    schema: Schema = options_of(catalogue.strategy(kind, name)).json_schema()
    return {**_untitled(schema), "additionalProperties": False}


def _losses(catalogue: Catalogue) -> Schema:
    terms: Schema = {}
    names = []
    for name in catalogue.names("distiller"):
        term = {
            "weight": {"type": "number", "exclusiveMinimum": 0, "default": 1},
            "after": {"type": "number", "minimum": 0, "exclusiveMaximum": 1, "default": 0},
            "with": _options(catalogue, "distiller", name),
        }
        full = {"type": "object", "properties": term, "additionalProperties": False}
        if cast(type[Distiller], catalogue.strategy("distiller", name)).needs_banks:
            term["banks"] = {"type": "array", "items": {"type": "string"}, "minItems": 1, "uniqueItems": True}
            terms[name] = {**full, "required": ["banks"]}
        else:
            terms[name] = {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, full]}
            names.append(name)
    return {
        "anyOf": [
            {"enum": names},
            {"type": "array", "items": {"enum": names}, "minItems": 1, "uniqueItems": True},
            {"type": "object", "properties": terms, "additionalProperties": False, "minProperties": 1},
        ]
    }


def _untitled(schema: Any) -> Any:
    """The schema without the titles that pydantic makes up from names."""
    if isinstance(schema, dict):
        return {
            key: _untitled(value) for key, value in schema.items() if not (key == "title" and isinstance(value, str))
        }
    return [_untitled(item) for item in schema] if isinstance(schema, list) else schema
