"""What an element costs at 32 bits: bytes of one party, rounds, and bytes from the dealer."""

from functools import partial

import pytest
from numbers_at_scale import log_sum_exp_gadget, norm_gadget, relu_gadget, smooth_gadget, softmax_gadget

from comet_jax.passes.variants import VARIANTS

ELEMENTS = (64, 64)
COUNT = 64 * 64


def _cost(gadget):
    p = gadget.program
    return p.online_bytes / COUNT, p.round_count, p.offline_bytes / COUNT


def test_relu():
    online, rounds, dealt = _cost(relu_gadget(ELEMENTS, 32))
    assert (online <= 4, rounds <= 3, dealt <= 45) == (True, True, True)


@pytest.mark.parametrize("make", [relu_gadget, partial(smooth_gadget, "gelu_tanh")])
def test_variants_trade_dealt_bytes_for_bytes_and_rounds(make):
    few, wide, looked_up = (_cost(make(ELEMENTS, 32, v)) for v in VARIANTS[:3])
    assert wide[0] < few[0]
    assert wide[1] == few[1] == 3
    assert looked_up[:2] == (wide[0], 2)
    assert few[2] < wide[2] < looked_up[2]


@pytest.mark.parametrize("name", ["gelu_tanh", "gelu_erf", "silu"])
def test_smooth_activations(name):
    online, rounds, dealt = _cost(smooth_gadget(name, ELEMENTS, 32))
    assert (online <= 7, rounds <= 4, dealt <= 260) == (True, True, True)


def test_softmax_of_64():
    online, rounds, dealt = _cost(softmax_gadget(ELEMENTS, 32))
    assert (online <= 7, rounds, dealt <= 320) == (True, 6, True)


def test_log_sum_exp_of_64():
    online, rounds, dealt = _cost(log_sum_exp_gadget(ELEMENTS, 32))
    assert (online <= 3.5, rounds, dealt <= 325) == (True, 5, True)


@pytest.mark.parametrize(("centre", "rounds"), [(False, 4), (True, 5)])
def test_normalise(centre, rounds):
    online, found, dealt = _cost(norm_gadget(ELEMENTS, 32, centre=centre, eps=1e-5))
    assert (online <= 5, found, dealt <= 93) == (True, rounds, True)
