import tomllib

import pytest

from sr_quant_cli.errors import UsageError
from sr_quant_cli.networks.sites import KINDS, TENSORS
from sr_quant_cli.recipe.load import dump_recipe, load_recipe, recipe_names, validate_recipe
from sr_quant_cli.recipe.schema import QuantizeRecipe, SitesSection


@pytest.mark.parametrize("name", recipe_names())
def test_built_in_recipes_are_valid_and_named_as_their_file(name):
    assert load_recipe(name).recipe.name == name


def test_a_dumped_recipe_is_the_same_recipe(tmp_path):
    recipe = load_recipe("pretrain-edsr", ["train.iters=7", "optim.lr=3e-4"])
    (tmp_path / "r.toml").write_text(dump_recipe(recipe))
    assert load_recipe(str(tmp_path / "r.toml")) == recipe
    assert tomllib.loads(dump_recipe(recipe))["train"]["iters"] == 7


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("train.iters=1000", "train", "iters", 1000),
        ("data.train=some/folder", "data", "train", "some/folder"),
        ("data.validation=['a*', 'b*']", "data", "validation", ["a*", "b*"]),
        ("network.scale=3", "network", "scale", 3),
    ],
)
def test_overrides_take_toml_values_or_plain_text(override, section, key, value):
    recipe = load_recipe("pretrain-edsr", [override])
    assert getattr(getattr(recipe, section), key) == value


def test_every_error_is_reported_at_once_with_place_value_and_nearest_name():
    with pytest.raises(UsageError) as caught:
        load_recipe(
            "pretrain-edsr",
            ["train.itres=5", "network.nblocks=3", "train.batch=0", "optim.lr='fast'"],
        )
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert all("pretrain-edsr.toml: " in line for line in lines)
    text = str(caught.value)
    assert "train.itres: unknown key, did you mean 'iters'?" in text
    assert "network.nblocks: unknown key, did you mean 'n_blocks'?" in text
    assert "train.batch = 0" in text
    assert "optim.lr = 'fast'" in text


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("network.name=esdr", "did you mean 'edsr'"),
        ("network.scale=5", "network.scale = 5"),
        ("data.patch_hr=194", "multiple of the scale"),
        ("optim.lr=nan", "finite"),
        ("train", "section.key=value"),
        ("train.iters.deep=1", "no section"),
        ("recipe.task=quantize", "pretrain"),
    ],
)
def test_single_errors(override, message):
    with pytest.raises(UsageError, match=message):
        load_recipe("pretrain-edsr", [override])


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("sites.upsampler=int8", {"input": "int8", "weight": "int8"}),
        ("sites.upsampler.weight=low", {"weight": "low"}),
        ("sites.upsampler={input='fp32', weight='low'}", {"input": "fp32", "weight": "low"}),
    ],
)
def test_a_kind_of_site_takes_one_precision_or_a_table(tmp_path, override, expected):
    recipe = load_recipe("minmax-edsr", [override], QuantizeRecipe)
    assert recipe.sites.changes() == {"upsampler": expected}
    (tmp_path / "r.toml").write_text(dump_recipe(recipe))
    assert load_recipe(str(tmp_path / "r.toml")) == recipe


def test_every_kind_of_site_can_be_set():
    assert set(SitesSection.model_fields) == {"placement", *KINDS}
    for kind in KINDS:
        recipe = load_recipe("minmax-edsr", [f"sites.{kind}=int8"], QuantizeRecipe)
        (operands,) = recipe.sites.changes().values()
        assert ("weight" in operands) == (kind not in (*TENSORS, "matmul"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sites.upsampler=int4", r"sites\.upsampler = 'int4': must be one of fp32, int8, low, or"),
        ("sites.upsampler.bias=low", r"sites\.upsampler: .* for input and weight$"),
        ("sites.upsampler.input=['low']", r"sites\.upsampler: must be one of"),
        ("sites.skip.weight=low", r"sites\.skip: .* for input, it has no weight$"),
        ("sites.matmul.weight=low", r"sites\.matmul: .* it has no weight$"),
        ("sites.upsamplr=int8", "did you mean 'upsampler'"),
    ],
)
def test_nonsense_at_a_site_is_told_in_one_line(override, message):
    with pytest.raises(UsageError, match=message) as refused:
        load_recipe("minmax-edsr", [override])
    assert "\n" not in str(refused.value)


def test_a_recipe_without_a_network_says_so():
    with pytest.raises(UsageError, match="network: is missing"):
        validate_recipe({"recipe": {"name": "a", "task": "pretrain"}}, "a.toml")
    with pytest.raises(UsageError, match="needs name"):
        validate_recipe(
            {"recipe": {"name": "a", "task": "pretrain"}, "network": {"scale": 2}}, "a.toml"
        )


def test_unknown_recipes_and_broken_files(tmp_path):
    with pytest.raises(UsageError, match="did you mean 'pretrain-edsr'"):
        load_recipe("pretrain-edrs")
    with pytest.raises(UsageError, match="no such recipe file"):
        load_recipe("none.toml")
    (tmp_path / "broken.toml").write_text("a = [")
    with pytest.raises(UsageError, match=r"broken\.toml: not a readable TOML file"):
        load_recipe(str(tmp_path / "broken.toml"))
