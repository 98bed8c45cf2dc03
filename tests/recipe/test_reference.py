from pathlib import Path

from sr_quant_cli.recipe.reference import reference


def test_the_page_is_what_the_schema_says():
    page = Path(__file__).parents[2] / "docs/recipes.md"
    assert page.read_text() == reference(), "write it again: srq recipes fields > docs/recipes.md"
