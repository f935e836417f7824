"""Suggest Hint Points; the choice is tested in tests/pipeline."""

import json

import pytest
import torch

RED = {"x": 0.25, "y": 0.5, "color": "#c03030", "size": 4}


def written(*points):
    return json.dumps({"version": 1, "points": points})


@pytest.fixture
def suggest(host, pointhint):
    return lambda image, **options: (
        host.nodes.SuggestHintPoints.execute(image, pointhint, **options).args
    )


def test_hints_fit_colorize_by_point_hints(host, suggest, grey):
    hints, doubt = suggest(grey(1), count=4)
    assert len(json.loads(hints)["points"]) == 4
    assert host.nodes.ColorizeByPointHints.validate_inputs(hints=hints) is True
    assert doubt.shape == (1, 40, 56) and doubt.dtype == torch.float32
    assert 0 <= doubt.min() < doubt.max() <= 1


def test_existing_points_are_kept(suggest, grey):
    hints, doubt = suggest(grey(1), count=2, hints=written(RED))
    first, *others = json.loads(hints)["points"]
    assert first == RED and len(others) == 2
    assert doubt[0, 20, 14] < suggest(grey(1), count=2)[1][0, 20, 14]


def test_one_mask_for_each_image(suggest, grey):
    """Each image has its own doubt; the points are those of the first."""
    image = grey(3)
    hints, doubt = suggest(image, count=2)
    assert doubt.shape == (3, 40, 56)
    assert hints == suggest(image[:1], count=2)[0]
    for i in range(3):
        assert torch.equal(doubt[i : i + 1], suggest(image[i : i + 1], count=2)[1])


def test_points_get_the_colors_of_the_base(suggest, grey, colorizer):
    based, own = (
        {point["color"] for point in json.loads(suggest(grey(1), colorizer=base)[0])["points"]}
        for base in (colorizer, None)
    )
    assert based != own


def test_wrong_hints_are_refused_before_the_run(host):
    validate = host.nodes.SuggestHintPoints.validate_inputs
    assert validate(hints=None) is True and validate(hints="") is True
    assert "point 1: x is 2" in validate(hints=written({**RED, "x": 2}))


def test_the_run_can_be_stopped(host, suggest, grey):
    host.mm.interrupt_current_processing()
    with pytest.raises(host.mm.InterruptProcessingException):
        suggest(grey(2))
