from pathlib import Path

from sr_quant_cli.methods import method_names
from sr_quant_cli.recipe.pages import method_pages
from sr_quant_cli.recipe.reference import reference

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_what_the_schema_says():
    page = DOCS / "recipes.md"
    assert page.read_text() == reference(), "write it again: srq recipes fields > docs/recipes.md"


def test_the_pages_on_methods_are_what_these_say():
    written = {path.name: path.read_text() for path in (DOCS / "methods").iterdir()}
    assert written == method_pages(), "write them again: srq recipes methods docs/methods"


def test_every_method_is_on_a_page_with_its_formulas():
    pages = method_pages()
    for name in method_names():
        assert f"`--method {name}`" in pages["README.md"]
        (page,) = (text for text in pages.values() if f'name = "{name}"\n' in text)
        assert "x_hat = " in page
        assert "corrected" in page
        assert "=====" not in page
