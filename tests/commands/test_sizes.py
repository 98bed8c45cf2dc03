"""Requested sizes, and the network scale for each."""

import pytest

from sr_quant_cli.commands.sizes import SizeRequest
from sr_quant_cli.errors import UsageError


@pytest.mark.parametrize(
    ("request_", "expected", "tag"),
    [
        (SizeRequest(scale=(4, 4)), (4.0, 80, 120), "_x4"),
        (SizeRequest(scale=(2.5, 2.5)), (2.5, 50, 75), "_x2.5"),
        (SizeRequest(scale=(1.5, 1)), (1.5, 20, 45), "_x1.5x1"),
        (SizeRequest(width=100), (100 / 30, 67, 100), "_w100"),
        (SizeRequest(height=100), (5, 100, 150), "_h100"),
        (SizeRequest(width=100, height=30), (100 / 30, 30, 100), "_100x30"),
        (SizeRequest(fit=(300, 100)), (5, 100, 150), "_300x100"),
        (SizeRequest(fit=(60, 1000)), (2, 40, 60), "_60x1000"),
        (SizeRequest(max_side=90), (3, 60, 90), "_max90"),
    ],
)
def test_every_kind_of_size_is_a_factor_and_a_name(request_, expected, tag):
    result = request_.of(height=20, width=30)
    assert (result.factor, result.height, result.width) == pytest.approx(expected)
    assert request_.tag == tag


@pytest.mark.parametrize(("height", "width"), [(1, 300), (300, 1)])
def test_a_side_is_never_rounded_away(height, width):
    result = SizeRequest(max_side=301).of(height, width)
    assert sorted((result.height, result.width)) == [1, 301]


@pytest.mark.parametrize(
    "parts",
    [
        {"scale": (2, 2), "width": 9},
        {"width": 9, "fit": (9, 9)},
        {"height": 9, "max_side": 9},
        {"scale": (2, 2), "max_side": 9},
    ],
)
def test_sizes_exclude_each_other(parts):
    with pytest.raises(UsageError, match="give only one of them"):
        SizeRequest(**parts)


@pytest.mark.parametrize("scale", [(1, 1), (0.5, 2), (16.01, 2), (2, 17), (1, 0.9)])
def test_factors_have_limits(scale):
    with pytest.raises(UsageError, match="must be more than 1, and at most 16"):
        SizeRequest(scale=scale)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (SizeRequest(width=30), "30x20 already: `width` 30 would not enlarge"),
        (SizeRequest(fit=(29, 900)), "30x20 already: `fit` 29x900 would not enlarge"),
        (SizeRequest(max_side=10), "would not enlarge"),
        (SizeRequest(scale=(1.01, 1.01)), "`scale` 1.01 would not enlarge"),
        (SizeRequest(height=321), "`height` 321 would enlarge it 16.1 times, and 16 is the most"),
    ],
)
def test_what_is_no_enlargement_is_refused(request_, message):
    with pytest.raises(UsageError, match=message):
        request_.of(height=20, width=30)
