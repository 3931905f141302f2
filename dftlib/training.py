"""Training classifiers: NNET on features computed once, and a small network from scratch."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from dftlib import config
from dftlib.classifiers import Pictures, batches, to_float
from dftlib.models import AttributeNet, Backbone, nnet

BATCH = 256


@torch.inference_mode()
def features(body: Backbone, images: Pictures, device: torch.device) -> Tensor:
    """Features n x F of pictures n x 3 x H x W under a frozen backbone, float32 on the CPU."""
    body = body.eval().to(device)
    parts = list(batches(images))
    return torch.cat([body(to_float(part, device)).cpu() for part in tqdm(parts, desc="features", disable=None, leave=False)])


def train_nnet(
    train: Tensor, labels: Tensor, val: Tensor, val_labels: Tensor, epochs: int = 20, learning_rate: float = 0.005, seed: int = 0
) -> nn.Sequential:
    """NNET trained with Adam and cross-entropy on features n x F with labels n (int64); the best epoch on validation is kept.

    Features are divided by their deviation over the training set inside the first layer, so the head takes raw features.
    """
    config.seed_all(seed)
    head = nnet(train.shape[1])
    mean, deviation = train.mean(0), train.std(0) + 1e-6
    _train(head, (train - mean) / deviation, labels, (val - mean) / deviation, val_labels, epochs, learning_rate, seed)
    first = head[0]
    assert isinstance(first, nn.Linear)
    with torch.no_grad():
        first.weight /= deviation
        first.bias -= first.weight @ mean
    return head


def _train(net, train, labels, val, val_labels, epochs, learning_rate, seed) -> None:  # type: ignore
    optimiser = torch.optim.Adam(net.parameters(), lr=learning_rate)
    best, kept = -1.0, copy.deepcopy(net.state_dict())
    for epoch in range(epochs):
        net.train()
        for rows in torch.from_numpy(config.rng(seed, epoch).permutation(len(train))).split(BATCH):
            loss = F.cross_entropy(net(train[rows]), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        net.eval()
        with torch.inference_mode():
            accuracy = (net(val).argmax(1) == val_labels).double().mean().item()
        if accuracy > best:
            best, kept = accuracy, copy.deepcopy(net.state_dict())
    net.load_state_dict(kept)
