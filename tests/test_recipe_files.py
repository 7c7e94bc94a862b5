"""Which recipes have a name: compresskit's own, and those in the packages of plugins."""

from __future__ import annotations

import sys

import pytest

import compresskit
from compresskit.errors import PluginError, RecipeError
from compresskit.recipe import about
from compresskit.recipe_files import OWN, recipe_text, recipes_installed, recipes_shipped

HALF = "recipe: 1\nname: half\nabout: >-\n  Half of\n  the heads.\nsteps:\n- {prune: heads, by: magnitude, keep: 1/2}\n"


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Takes plugins with recipes, as pip would have installed them."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("COMPRESSKIT_PLUGINS")

    def install(name, package, module=None, **recipes):
        info = tmp_path / f"compresskit_{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: compresskit-{name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[compresskit]\n{name} = {module or package}\n")
        (tmp_path / package / "recipes").mkdir(parents=True, exist_ok=True)
        (tmp_path / package / "__init__.py").write_text("raise ImportError('nobody may import this')\n")
        for stem, text in recipes.items():
            (tmp_path / package / "recipes" / f"{stem}.yaml").write_text(text)
        return tmp_path / package / "recipes"

    return install


def named(distribution):
    return [recipe for recipe in recipes_installed() if recipe.origin.distribution == distribution]


def test_plugins_bring_recipes_without_being_imported(site):
    folder = site("sharp", "sharp_package", "sharp_package.deep.inside", half=HALF, also=HALF)
    assert [(recipe.name, recipe.path, str(recipe.origin)) for recipe in named("compresskit-sharp")] == [
        ("also", folder / "also.yaml", "compresskit-sharp 1.0"),
        ("half", folder / "half.yaml", "compresskit-sharp 1.0"),
    ]
    assert recipe_text("half") == HALF
    assert "sharp_package" not in sys.modules


def test_our_own_come_first_and_are_those_in_the_folder(site):
    site("aaa", "aaa_package", a=HALF)
    ours = [recipe for recipe in recipes_installed() if recipe.origin.distribution == "compresskit"]
    assert recipes_installed()[: len(ours)] == ours
    assert tuple(recipe.name for recipe in ours) == recipes_shipped() == tuple(sorted(p.stem for p in OWN.iterdir()))
    assert {str(recipe.origin) for recipe in ours} == {f"compresskit {compresskit.__version__}"}


def test_plugins_that_are_not_in_use_bring_none(site, monkeypatch):
    site("sharp", "sharp_package", half=HALF)
    site("blunt", "blunt_package", blunt=HALF)
    monkeypatch.setenv("COMPRESSKIT_PLUGINS", "blunt")
    assert (named("compresskit-sharp"), [recipe.name for recipe in named("compresskit-blunt")]) == ([], ["blunt"])
    monkeypatch.setenv("COMPRESSKIT_PLUGINS", "dull")
    with pytest.raises(PluginError) as caught:
        recipes_installed()
    assert str(caught.value).startswith("COMPRESSKIT_PLUGINS names the plugin 'dull', which is not installed (")


def test_modules_without_a_package_have_none(site, tmp_path, monkeypatch):
    """A folder `recipes` beside a single module may be anybody's."""
    site("lone", "elsewhere", "lone_module", half=HALF)
    (tmp_path / "lone_module.py").write_text("")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "stray.yaml").write_text(HALF)
    site("gone", "nowhere", "gone_module")
    assert named("compresskit-lone") == named("compresskit-gone") == []


def test_two_entry_points_of_one_package_bring_its_recipes_once(site, tmp_path):
    folder = site("sharp", "sharp_package", half=HALF)
    points = tmp_path / "compresskit_sharp-1.0.dist-info" / "entry_points.txt"
    points.write_text("[compresskit]\none = sharp_package.one\ntwo = sharp_package.two\n")
    assert [recipe.path for recipe in named("compresskit-sharp")] == [folder / "half.yaml"]


def test_a_name_that_two_have_is_refused_and_no_other(site):
    first = site("blunt", "blunt_package", half=HALF, blunt=HALF)
    second = site("sharp", "sharp_package", half=HALF)
    with pytest.raises(RecipeError) as caught:
        recipe_text("half")
    assert str(caught.value) == (
        f"recipes of the name 'half' are {first / 'half.yaml'} (compresskit-blunt 1.0) and "
        f"{second / 'half.yaml'} (compresskit-sharp 1.0); give the path of the one that you mean"
    )
    assert recipe_text("blunt") == recipe_text(str(second / "half.yaml")) == HALF


def test_what_recipes_say_of_themselves(site, monkeypatch):
    site("sharp", "sharp_package", half=HALF, wrong=HALF.replace("magnitude", "nothing"))
    half, wrong = named("compresskit-sharp")
    monkeypatch.setenv("COMPRESSKIT_PLUGINS", "")
    assert about(half) == "Half of the heads."
    assert about(wrong) == "Can't be carried out here; `compresskit check wrong` says why."


def test_a_file_goes_before_a_name_and_a_name_before_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cost-eff-8x").mkdir()  # as a run with that --out leaves one
    (tmp_path / "shape-8x").write_text("mine")
    assert recipe_text("cost-eff-8x") == (OWN / "cost-eff-8x.yaml").read_text(encoding="utf-8")
    assert recipe_text("shape-8x") == "mine"


def test_files_that_are_no_recipes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    known = ", ".join(recipes_shipped())
    for name, message in {
        "folder": "folder is a folder; name the recipe file in it",
        "none.yaml": "there is no recipe file none.yaml; give a file, install the plugin that brings it, "
        f"or take one of: {known}",
        "cost-ef-8x": "there is no recipe 'cost-ef-8x' (did you mean 'cost-eff-8x'?); give a file, install the plugin "
        f"that brings it, or take one of: {known}",
        "latin.yaml": "latin.yaml is not UTF-8 text (byte 9); save it as UTF-8",
    }.items():
        with pytest.raises(RecipeError) as caught:
            recipe_text(name)
        assert str(caught.value) == message
