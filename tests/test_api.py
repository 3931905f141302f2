"""What a user who imports dftlib expects: any network, any labels, a perturbation that is a module, and nothing else changed."""

import copy
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import dftlib
import dftlib._torchvision  # before torchvision itself
from dftlib import DataError, Perturbation, Settings, Split, TorchClassifier, compare, fit, fit_black_box, images
from dftlib.classifiers import base
from dftlib.classifiers.black_box import CallableClassifier
from dftlib.datasets.base import class_indices
from dftlib.perturbation import box_maps, gradient, perturbation

SIDE = 8
NAMES = {
    "fit", "fit_black_box", "Settings", "Perturbation", "TorchClassifier", "load_classifier", "Split", "compare", "Comparison",
    "DataError", "__version__",
}  # fmt: skip
QUICK = Settings(steps=40, learning_rate=0.02, min_psnr=20)


def python(code: str) -> str:
    said = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    return said.stdout + said.stderr


def least_of_three(code: str) -> list[str]:
    """What code prints, of the run whose first number is the least: the first one compiles, and a busy machine is slow."""
    return min((python(code).split() for _ in range(3)), key=lambda said: float(said[0]))


def test_importing_costs_nothing_and_changes_nothing() -> None:
    code = "import sys, time; t = time.process_time(); import dftlib; print(time.process_time() - t, 'torch' in sys.modules)"
    took, torch_too = least_of_three(code)
    assert float(took) < 0.5
    assert torch_too == "False"


def test_the_library_adds_less_than_torch_itself_takes() -> None:
    """And it brings nothing of the kit. In parts of torch's own time, which knows how slow the machine is."""
    code = "import sys, time; a = time.process_time(); import torch; b = time.process_time(); "
    code += "from dftlib import TorchClassifier, fit, Perturbation; print((time.process_time() - b) / (b - a), "
    code += "*(m for m in sys.modules if m.startswith(('dftlib', 'matplotlib', 'torchvision'))))"
    share, *modules = least_of_three(code)
    assert float(share) < 0.5
    assert not [m for m in modules if m.startswith(("matplotlib", "torchvision", "dftlib.experiments", "dftlib.plots"))]


def test_every_public_name_is_there() -> None:
    assert set(dftlib.__all__) == NAMES
    assert set(dir(dftlib)) >= NAMES
    for name in NAMES:
        assert getattr(dftlib, name) is not None
    assert dftlib.__version__[0].isdigit()
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        dftlib.fitt  # noqa: B018


class Brighter(nn.Module):
    """'Present' where the upper half is brighter than the lower by more than `bias`, which is wrong for `toy`'s images."""

    def __init__(self, outputs: str = "two", dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.outputs = outputs
        self.conv = nn.Conv2d(3, 1, SIDE, bias=True)
        self.norm = nn.BatchNorm2d(1)
        with torch.no_grad():
            self.conv.weight.copy_(torch.cat([torch.ones(1, 3, 4, 8), -torch.ones(1, 3, 4, 8)], 2) * 20 / 96)
            self.conv.bias.fill_(-5)  # type: ignore[union-attr]
        self.to(dtype)

    def forward(self, images: Tensor) -> Tensor:
        z = self.norm(self.conv(images)).flatten(1)
        return {"two": torch.cat([0 * z, z], 1), "n x 1": z, "n": z[:, 0], "map": z[:, :, None, None]}[self.outputs]


def toy(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Grey noise; images of class 1 are brighter above than below."""
    labels = torch.arange(count) % 2
    made = 0.5 + 0.05 * torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    made[:, :, : SIDE // 2] += (0.1 * (2 * labels - 1)).view(-1, 1, 1, 1)
    return (made.clamp(0, 1) * 255).round().to(torch.uint8), labels


DATA = (*toy(120, 1), *toy(60, 2))


def share(model: TorchClassifier, shown: Tensor, labels: Tensor) -> float:
    return (model.scores(shown).argmax(1) == labels).double().mean().item()


@pytest.mark.parametrize("outputs", ["two", "n x 1", "n", "map"])
@pytest.mark.parametrize("own", [torch.float32, torch.bfloat16, torch.float64, torch.float16])
@pytest.mark.parametrize("fast", [torch.float32, torch.bfloat16])
def test_any_network_in_any_precision(own: torch.dtype, fast: torch.dtype, outputs: str) -> None:
    model, (test, labels) = TorchClassifier(Brighter(outputs, own), dtype=fast), toy(100, 3)
    scores = model.scores(test)
    assert scores.shape == (100, 2)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, TorchClassifier(Brighter()).scores(test), rtol=0, atol=0.05)
    found = fit(model, *DATA, QUICK)
    assert share(model, test, labels) < 0.55
    assert share(model, found.apply(test), labels) > 0.9


def test_one_logit_is_that_of_class_1() -> None:
    z = torch.tensor([-2.0, 0.0, 3.0])
    for shape in ((3,), (3, 1)):
        net = nn.Module()
        net.forward = lambda images, shape=shape: z.view(shape)  # type: ignore[assignment]
        scores = TorchClassifier(net).scores(torch.zeros(3, 3, SIDE, SIDE))
        torch.testing.assert_close(scores, torch.stack([1 - z.sigmoid(), z.sigmoid()], 1))


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_probability_given_for_a_logit_is_warned_of(outputs: int) -> None:
    """Two of them leave the classes as they are."""
    images, _ = toy(20, 1)
    model = TorchClassifier(nn.Sequential(Brighter(), nn.Softmax(1), Columns(outputs)))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model.scores(images[:7])
        TorchClassifier(Brighter("n")).scores(images)
        assert not said
        model.scores(images)
    assert ["leave out the sigmoid" in str(one.message) for one in said] == [True] * (outputs == 1)


class Columns(nn.Module):
    """The last so many."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        return x[:, -self.count :]


@pytest.mark.parametrize("answer", [torch.zeros(3, 2, 4, 4), torch.zeros(5, 2), (torch.zeros(3, 2),), torch.zeros(1)])
def test_a_network_that_gives_no_logits_is_refused(answer: Any) -> None:
    net = nn.Module()
    net.forward = lambda images: answer  # type: ignore[assignment]
    with pytest.raises(DataError, match="wrap it"):
        TorchClassifier(net).scores(torch.zeros(3, 3, SIDE, SIDE))


@pytest.mark.parametrize("fast", [torch.float32, torch.bfloat16])
def test_the_users_network_stays_as_it_is(fast: torch.dtype) -> None:
    """Weights and statistics, where they lie, whether they are trained, and the training flag, part by part."""
    net: Any = nn.Sequential(Brighter(), nn.Flatten()).train()
    net[0].norm.eval()
    net[0].conv.weight.grad = torch.ones_like(net[0].conv.weight)

    def state() -> list[Any]:
        tensors = [(*t.flatten().tolist(), t.stride(), t.dtype, t.device, t.requires_grad, t.data_ptr()) for t in weights()]
        return [tensors, [m.training for m in net.modules()], net[0].conv.weight.grad.sum()]

    def weights() -> list[Tensor]:
        return [*net.parameters(), *net.buffers()]

    before = state()
    model = TorchClassifier(net, dtype=fast)
    model.scores(DATA[0])
    fit(model, *DATA, Settings(steps=4))
    assert state() == before
    scores = model.scores(DATA[0])
    with torch.no_grad():
        net[0].conv.weight.zero_()  # training goes on: the classifier is that of before
    assert torch.equal(model.scores(DATA[0]), scores)
    assert TorchClassifier(net, in_place=True).net is net
    assert not net.training


KINDS = [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool, np.int8, np.uint16, np.uint64, np.bool_]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_labels_of_any_integer_type(kind: Any) -> None:
    """As n, or n x 1, for `fit` and for `compare`."""
    x, y, val, val_y = DATA
    model = TorchClassifier(Brighter())
    wanted = fit(model, *DATA, Settings(steps=4))
    one, other = (t.to(kind) if isinstance(kind, torch.dtype) else t.numpy().astype(kind) for t in (y, val_y))
    assert torch.equal(fit(model, x, one, val, other[:, None], Settings(steps=4)).n, wanted.n)
    before, after = model.scores(val), model.scores(wanted.apply(val))
    rows = [compare(before, after, Split(val, labels)).row() for labels in (val_y, other, other[:, None])]
    assert rows[0] == rows[1] == rows[2]


def test_a_black_box_takes_the_same_labels(tmp_path: Any) -> None:
    """All that are taken get as far as the budget."""
    x, y, val, val_y = DATA
    box = CallableClassifier(lambda pictures: np.full((len(pictures), 2), 0.5), identity="undecided")
    given: list[tuple[Any, Any]] = [(y, val_y), (y.numpy().astype(bool)[:, None], val_y.to(torch.int8))]
    wrong: list[tuple[Any, Any]] = [(y + 1, val_y), (y, val_y + 1), (2 * y - 1, val_y)]
    for cases, words in ((given, "too few for a check"), (wrong, "A label is")):
        for labels, val_labels in cases:
            with pytest.raises(DataError, match=words):
                fit_black_box(box, x, labels, val, val_labels, query_budget=1, query_log=tmp_path / "answers.db")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (DATA[1].float(), "return_inverse"),
        (np.array(["f", "m"])[DATA[1]], "return_inverse"),
        (DATA[1] - 1, "leave out images whose class isn't known"),
        (2 * DATA[1] - 1, r"\(labels \+ 1\) // 2 of -1 and \+1"),
        (DATA[1] + 1, "A label is 2, but the classifier has 2 classes, counted from 0: give labels - 1"),
        (DATA[1][:7], "n labels"),
        (torch.eye(2, dtype=torch.int64)[DATA[1]], r"labels.argmax\(1\)"),
    ],
    ids=["floats", "words", "unknown", "-1 and +1", "1 and 2", "too few", "one-hot"],
)
def test_labels_whose_meaning_isnt_certain_are_refused(labels: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        fit(TorchClassifier(Brighter()), DATA[0], labels, *DATA[2:], QUICK)
    if words != "n labels":
        with pytest.raises(DataError, match=words):
            compare(torch.zeros(len(labels), 2), torch.zeros(len(labels), 2), Split(DATA[0], labels))


def test_a_refused_label_is_taken_as_the_sentence_says() -> None:
    y = DATA[1]
    said: list[Any] = [np.unique(np.array(["f", "m"])[y], return_inverse=True)[1], (2 * y - 1 + 1) // 2, (y + 1) - 1]
    for labels in (*said, torch.eye(2, dtype=torch.int64)[y].argmax(1), np.unique(y.double(), return_inverse=True)[1]):
        assert torch.equal(class_indices(labels), y)


N = Perturbation(0.3 * torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)))


def test_a_perturbation_is_a_module(tmp_path: Any) -> None:
    assert isinstance(N, nn.Module)
    assert [name for name, _ in N.named_buffers()] == ["n"]
    assert not list(N.parameters())
    whole = nn.Sequential(N, Brighter()).eval()
    x = DATA[0][:5] / 255
    assert torch.equal(whole(x), whole[1](N.apply(x)))
    seen: list[type] = []
    whole.apply(lambda module: seen.append(type(module)))  # `nn.Module.apply`
    assert Perturbation in seen
    copied = copy.deepcopy(whole.to(torch.bfloat16))[0]
    assert copied.n.dtype == torch.bfloat16
    assert copied(x).dtype == torch.float32
    assert "3 x 8 x 8, box='atanh'" in repr(N)
    other = N.with_n(-N.n).with_about({"seed": 1})
    assert (other.box, other.about, N.about) == ("atanh", {"seed": 1}, {})
    assert torch.equal(other.n, -N.n)
    other.save(tmp_path / "n.safetensors")
    assert torch.equal(Perturbation.load(tmp_path / "n.safetensors").n, -N.n)


@pytest.mark.parametrize("box", box_maps.BOXES)
def test_one_image_or_many_bytes_or_fractions(box: str) -> None:
    n, x = Perturbation(N.n, box), DATA[0]
    z = n(x)
    assert z.dtype == torch.uint8
    assert torch.equal(z, n.apply_uint8(x))
    assert torch.equal(n(x[3]), z[3])
    fractions = n(x / 255)
    assert fractions.dtype == torch.float32
    assert torch.equal(fractions, n.apply(x))
    assert torch.equal((n(x[3] / 255) * 255).round().byte(), z[3])
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert n((x / 255).to(dtype)).dtype == dtype


def test_it_stands_in_a_composed_transform() -> None:
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    normal = v2.Normalize([0.5] * 3, [0.5] * 3)
    image = DATA[0][0]
    for given in (image, tv_tensors.Image(image), image[None]):
        composed = v2.Compose([N, v2.ToDtype(torch.float32, scale=True), N, normal])
        torch.testing.assert_close(composed(given), normal(N(N(given.as_subclass(Tensor)).float() / 255)))


@pytest.mark.parametrize("box", box_maps.BOXES)
def test_gradients_lead_through_it(box: str) -> None:
    """To the images, for whoever puts it before a network that is trained."""
    n = Perturbation(0.1 * N.n, box)
    x = (DATA[0][:2].double() / 255 * 0.8 + 0.1).requires_grad_()
    (found,) = torch.autograd.grad(n(x).sum(), x)
    step = 1e-3 * torch.ones_like(x)
    torch.testing.assert_close(found.sum(), ((n(x + step) - n(x - step)) / 2e-3).sum(), rtol=1e-2, atol=0)


OUTSIDE = [DATA[0].float(), DATA[0] / 255 - 0.5, DATA[0] / 255 * torch.nan, DATA[0].int(), DATA[0].bool()]


@pytest.mark.parametrize("wrong", OUTSIDE, ids=["grey levels", "normalised", "nan", "int", "bool"])
def test_images_outside_their_range_are_refused(wrong: Tensor) -> None:
    model, (x, y, val, val_y) = TorchClassifier(Brighter()), DATA
    calls: list[Any] = [
        lambda: N(wrong), lambda: N(wrong[0]), lambda: N.apply(wrong), lambda: N.apply(wrong.numpy()),
        lambda: N.apply_uint8(wrong), lambda: model.scores(wrong), lambda: fit(model, wrong, y, val, val_y),
        lambda: fit(model, x, y, wrong[:60], val_y),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(DataError, match=r"in \[0, 1\]"):
            call()


@pytest.mark.parametrize("shape", [(SIDE, SIDE), (1, SIDE, SIDE), (2, 3, SIDE, 4), (1, 2, 3, SIDE, SIDE)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="images of 3 x 8 x 8"):
        N(torch.zeros(shape))


def test_no_tensor_changes_device_by_itself() -> None:
    """On `meta`, where there are no numbers: what would be moved to the processor raises."""
    meta = torch.device("meta")
    for given in (torch.zeros(700, 3, SIDE, SIDE, device=meta), torch.zeros(2, 3, SIDE, SIDE, dtype=torch.uint8, device=meta)):
        for made in (
            N(given),
            N(given[0]),
            N.apply(given),
            N.apply_uint8(given),
            N.apply(DATA[0], meta),
            N.apply(DATA[0].numpy(), meta),
        ):
            assert made.device == meta
    assert N.apply(DATA[0]).device == N.apply(DATA[0].numpy()).device == torch.device("cpu")
    assert copy.deepcopy(N).to(meta).n.device == meta
    assert TorchClassifier(Brighter().to(meta)).logits(torch.zeros(2, 3, SIDE, SIDE, device=meta)).device == meta
    assert TorchClassifier(Brighter().to(meta)).device == meta


def test_a_fit_computes_on_the_classifiers_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps, the limit and validation: a device that is told apart from the processor by its number."""
    wanted, seen = torch.device("cpu", 0), set()

    def watched(given: Any, device: torch.device) -> Tensor:
        seen.add(str(device))
        return images.to_float(given, device)

    for module in (base, gradient, perturbation):
        monkeypatch.setattr(module, "to_float", watched)
    for x, val in ((DATA[0], DATA[2]), (DATA[0].numpy(), DATA[2].numpy())):
        fit(TorchClassifier(Brighter(), wanted), x, DATA[1], val, DATA[3], Settings(steps=4))
    assert seen == {"cpu:0"}


class Largest(TorchDispatchMode):
    """The largest tensor of each kind that is made meanwhile, in numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[torch.dtype, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, tuple | list) else [out]:
            if isinstance(t, Tensor):
                self.found[t.dtype] = max(self.found.get(t.dtype, 0), t.numel())
        return out


def test_whole_levels_take_the_memory_of_a_batch() -> None:
    """Beside the images themselves and what is returned: no float copy of everything."""
    many = np.zeros((4000, 3, SIDE, SIDE), np.uint8)
    for given in (many, torch.from_numpy(many)):
        with Largest() as largest:
            N.apply_uint8(given)
        assert largest.found[torch.float32] == 64 * 3 * SIDE * SIDE
        assert largest.found[torch.uint8] == many.size
