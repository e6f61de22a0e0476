"""Heads that draw samples or keep label widths."""

from __future__ import annotations

import torch

from agelens.label_distribution import AgeBins
from agelens.networks.adaptive_heads import EmbeddingHead, MarginHead, WidthsHead

BINS = AgeBins(20, 30)


def test_samples_are_drawn_in_training_alone() -> None:
    torch.manual_seed(0)
    head, features = EmbeddingHead(8, BINS, samples=3), torch.randn(5, 8)
    outputs = head(features)
    assert outputs.raw.shape == (5, 2 * 8 + 3 * 11)
    each = outputs.raw[:, 16:].reshape(5, 3, 11)
    assert (each[:, 0] != each[:, 1]).any()
    torch.testing.assert_close(outputs.logits.softmax(1), each.softmax(2).mean(1), atol=1e-4, rtol=0)
    head.eval()
    torch.testing.assert_close(head(features).raw, head(features).raw)
    torch.testing.assert_close(head(features).logits, head.linear(head.mean(features)))


def test_margins_start_at_their_own_ages() -> None:
    raw = MarginHead(8, BINS)(torch.randn(2, 8)).raw
    assert raw[0, 11:22].tolist() == list(range(20, 31))
    torch.testing.assert_close(raw[:, 22:].exp(), torch.full((2, 11), 2.0))


def test_widths_are_found_from_well_estimated_images() -> None:
    head = WidthsHead(8, BINS, sigma=2.0, every=2)
    wide = -((head.ages - 25) ** 2) / (2 * 3.0**2)  # what the network says of a face of 25
    wrong = -((head.ages - 21) ** 2) / (2 * 1.0**2)  # … and, four years off, of one of 26
    raw = torch.cat((torch.stack((wide, wrong)), torch.full((2, 11), 2.0)), dim=1)
    ages = torch.tensor([25.0, 26.0])
    head.observe(raw, ages)
    assert head.widths.tolist() == [2.0] * 11  # only after two steps
    head.observe(raw, ages)
    expected = torch.full((11,), 2.0)
    expected[5] = 3.0  # the other was worse than the mean of the batch
    torch.testing.assert_close(head.widths, expected)
    assert (head.cost.any().item(), head.steps.item()) == (False, 0.0)
    torch.testing.assert_close(head(torch.zeros(1, 8)).raw[0, 11:], expected)
    assert {"widths", "cost", "steps"} <= set(head.state_dict())  # a resumed run goes on from them
