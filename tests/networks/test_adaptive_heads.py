"""Heads that draw samples or keep label widths."""

from __future__ import annotations

import torch
from torch.nn import functional as F

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
    torch.testing.assert_close(raw[:, 22:33].exp(), torch.full((2, 11), 2.0))
    assert (raw[:, 33:44] == raw[0, 33]).all()  # nothing has changed yet: no age is held back


def test_variational_margins_follow_the_changes_of_the_ages_features() -> None:
    torch.manual_seed(0)
    head = MarginHead(2, BINS)
    kept: dict[int, list[torch.Tensor]] = {}
    spreads, distances = [0.0] * 11, torch.ones(11, 11) - torch.eye(11)
    for batch in (((20, 1.0, 0.0), (25, 0.0, 2.0)), ((20, 0.0, 1.0), (31, 3.0, 1.0), (30, 1.0, 3.0))):
        features = torch.tensor([row[1:] for row in batch])
        ages = torch.tensor([float(row[0]) for row in batch])
        with torch.no_grad():  # as the loop has it
            raw = head(features).raw
            torch.testing.assert_close(raw[:, 44:], features)
            head.observe(raw, ages)
        before = {bin_: torch.stack(rows).mean(0) for bin_, rows in kept.items()}
        labelled = [min(int(age) - 20, 10) for age in ages.tolist()]
        for bin_, row in zip(labelled, features, strict=True):
            kept.setdefault(bin_, []).append(row)
        after = {bin_: torch.stack(rows).mean(0) for bin_, rows in kept.items()}
        changes = torch.zeros(11, 3)
        for bin_, row in zip(labelled, features, strict=True):
            first = 1 - F.cosine_similarity(row, before[bin_], dim=0) if bin_ in before else 1.0
            changes[bin_, 1] += first * (1 - F.cosine_similarity(row, after[bin_], dim=0))
        now = torch.ones(11, 11)
        for a, mean in after.items():
            for b, other in after.items():
                now[a, b] = 1 - F.cosine_similarity(mean, other, dim=0)
            if a in labelled:
                changes[a, 0] = 1 - F.cosine_similarity(mean, before[a], dim=0) if a in before else 1.0
            now[a, a] = 0
        if not before:
            distances = torch.ones(11, 11)
        changes[:, 2] = (now - distances).mean(dim=1)
        distances = now
        for age in range(11):
            spreads[age] += changes[age, 1].item()
        scale = changes.square().mean(0).sqrt().clamp(min=1e-8)
        torch.testing.assert_close(head.changes, changes / scale, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(head.spreads, torch.tensor(spreads), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(head.means[0], torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(head.means[10], torch.tensor([2.0, 2.0]))
    of_ages = head(features).raw[0, 33:44]
    torch.testing.assert_close(of_ages[1:5], of_ages[1].expand(4))  # ages without an image changed alike
    assert (of_ages - of_ages[0]).abs().max() > 1e-3
    (gradient,) = torch.autograd.grad(of_ages[0], head.variational[0].weight)
    assert gradient.any()
    assert {"means", "counts", "spreads", "changes"} <= set(head.state_dict())  # a resumed run goes on


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
