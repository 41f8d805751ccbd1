"""Models that hold their loss, and call one_hot; referee: torch, by the port's own proof."""

import numpy as np
import torch
from torch.nn import functional as F

from dlwp_jax import parity

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


class Classifier(torch.nn.Module):
    """As a trainer of transformers does it: the model returns its loss."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = torch.nn.Linear(5, 4)
        self.loss = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
        self.side = torch.nn.MSELoss()
        self.unused = torch.nn.ModuleList([torch.nn.ReLU(), torch.nn.BCELoss()])

    def forward(self, x, labels):
        logits = self.body(x)
        truth = F.one_hot(labels, 4).float()
        loss = self.loss(logits, labels) + self.side(torch.softmax(logits, -1), truth)
        return {"loss": loss, "logits": logits}


def test_a_loss_is_written_as_its_function():
    ported = parity.port(Classifier(), normal(3, 5), RNG.integers(0, 4, 3))
    assert ported.report.ok, ported.report
    assert "losses.cross_entropy(logits, labels, label_smoothing=0.1)" in ported.source
    assert "jax.nn.one_hot(labels, 4, dtype=jnp.int32)" in ported.source
    assert ported.source.count("class ") == 1


class Pixels(torch.nn.Module):
    """Losses of images, weights in the state_dict, and a loss of every element."""

    share: torch.Tensor

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)
        weight = torch.tensor([1.0, 2.0, 0.5, 1.5])
        self.criterion = torch.nn.CrossEntropyLoss(weight, ignore_index=0)
        self.register_buffer("share", torch.rand(4, 1, 1))
        self.each = torch.nn.SmoothL1Loss(reduction="none", beta=0.5)

    def forward(self, x, labels):
        y = self.conv(x)
        mask = F.one_hot(labels, 4).permute(0, 3, 1, 2).float()
        bits = F.binary_cross_entropy_with_logits(y, mask, None, None, None, "none", self.share)
        return self.criterion(y, labels), bits, self.each(y, mask).mean(1)


def test_losses_of_images_have_the_classes_last():
    theirs = Pixels()
    ported = parity.port(theirs, normal(2, 3, 5, 6), RNG.integers(0, 4, (2, 5, 6)))
    assert ported.report.ok, ported.report
    assert "self.weight = nnx.Variable" in ported.source  # criterion.weight of the state_dict


class Regression(torch.nn.Module):
    """The other losses, by their modules, in a list, and by their functions."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Linear(5, 6)
        listed = [torch.nn.L1Loss(), torch.nn.HuberLoss(reduction="sum", delta=0.3)]
        self.losses = torch.nn.ModuleList(listed)
        self.kl = torch.nn.KLDivLoss(reduction="batchmean", log_target=True)
        self.gauss = torch.nn.GaussianNLLLoss(full=True)
        self.poisson = torch.nn.PoissonNLLLoss(eps=1e-6)
        self.cosine = torch.nn.CosineEmbeddingLoss(margin=0.2)
        self.triplet = torch.nn.TripletMarginLoss(margin=0.7, swap=True)

    def forward(self, x, y, labels):
        p = self.net(x)
        total = sum(loss(p, y) for loss in self.losses)
        total = total + self.kl(F.log_softmax(p, -1), F.log_softmax(y, -1))
        total = total + F.nll_loss(F.log_softmax(p, -1), labels, reduction="sum")
        total = total + self.gauss(p, y, y.exp()) + self.poisson(p, y.abs())
        signs = 2.0 * (labels % 2) - 1
        total = total + self.cosine(p, y, signs) + self.triplet(p, y, y.flip(0))
        return total + F.multilabel_soft_margin_loss(p, y.sigmoid())


def test_options_of_losses_are_kept():
    ported = parity.port(Regression(), normal(3, 5), normal(3, 6), RNG.integers(0, 6, 3))
    assert ported.report.ok, ported.report
    for text in ("delta=0.3", "log_target=True", "full=True", "margin=0.7, swap=True"):
        assert text in ported.source
