"""The simulated device refuses what CUDA refuses, and nothing that CUDA takes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.other_device import OtherDevice

CUDA = torch.device("cuda", 0)


@pytest.fixture
def gpu() -> Iterator[OtherDevice]:
    with OtherDevice() as device:
        yield device


def there(*shape: int) -> Tensor:
    return torch.ones(shape, device="cuda")


class Forgotten(nn.Module):
    """A tensor that it holds is no buffer, and stays where it was made."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scale = nn.Linear(3, 3), torch.ones(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.scale


def step_with_constant() -> None:
    """As an optimizer that makes its constant on the CPU."""
    net = nn.Linear(3, 1).to("cuda")
    net(there(2, 3)).sum().backward()
    with torch.no_grad():
        for p in net.parameters():
            p.addcdiv_(p.grad, torch.full_like(p, 2.0, device="cpu"))


WRONG: dict[str, Callable[[], object]] = {
    "a mask made on the CPU": lambda: there(3).masked_fill(torch.zeros(3, dtype=torch.bool), 0.0),
    "a 0-d mask made on the CPU": lambda: there(3).masked_fill(torch.zeros((), dtype=torch.bool), 0.0),
    "a mask in where": lambda: torch.where(torch.zeros(3, dtype=torch.bool), there(3), 0.0),
    "a tensor that is no buffer": lambda: Forgotten().to("cuda")(there(2, 3)),
    "weights left behind": lambda: nn.Linear(3, 3)(there(2, 3)),
    "an arange without a device": lambda: there(3) * torch.arange(3),
    "an index to gather": lambda: there(3).gather(0, torch.zeros(1, dtype=torch.int64)),
    "an index to index_select": lambda: there(3).index_select(0, torch.zeros(1, dtype=torch.int64)),
    "an index to scatter_": lambda: there(3).scatter_(0, torch.zeros(1, dtype=torch.int64), 1.0),
    "an index of the device into the CPU": lambda: torch.ones(3)[there(1).long()],
    "a value put at an index": lambda: there(3).__setitem__(there(2).long(), torch.ones(2)),
    "a constant in an optimizer": step_with_constant,
    "a list of tensors": lambda: torch._foreach_add_([there(2), there(2)], [there(2), torch.ones(2)]),
    "cat": lambda: torch.cat([there(2), torch.ones(2)]),
    "stack of numbers": lambda: torch.stack([there(), torch.ones(())]),
    "a sum kept on the CPU": lambda: torch.zeros(()).add_(there()),
    "a matrix product": lambda: there(2, 3) @ torch.ones(3, 2),
    "edges of bins": lambda: torch.bucketize(there(3), torch.ones(2)),
    "a device's number and a CPU's vector": lambda: torch.ones(3) + there(),
    "a generator of the CPU": lambda: torch.rand(3, device="cuda", generator=torch.Generator()),
    "a loss": lambda: nn.functional.mse_loss(there(3), torch.ones(3)),
    "a quantile": lambda: there(3).quantile(torch.tensor([0.1, 0.9])),
    "equal": lambda: torch.equal(there(3), torch.ones(3)),
    "a second GPU": lambda: torch.ones(3, device="cuda:1"),
    "a gradient": lambda: setattr(there(3).requires_grad_(), "grad", torch.ones(3)),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_tensor_on_the_wrong_device_is_found(gpu: OtherDevice, wrong: Callable[[], object]) -> None:
    with pytest.raises(RuntimeError, match=r"device|cuda"):
        wrong()


@pytest.mark.parametrize("convert", [Tensor.numpy, np.asarray])
def test_numpy_takes_none_of_the_device(gpu: OtherDevice, convert: Callable[[Tensor], object]) -> None:
    with pytest.raises(TypeError, match="cpu first"):
        convert(there(3))
    assert np.array_equal(convert(there(3).cpu()), np.ones(3))


def put(x: Tensor, index: Tensor, value: Tensor) -> Tensor:
    x[index] = value
    return x


RIGHT: dict[str, Callable[[], Tensor]] = {
    "numbers of the CPU": lambda: there(3) * torch.tensor(2.0) + 1 - torch.tensor(1.0),
    "a number of the CPU in place": lambda: there(3).mul_(torch.tensor(2.0)),
    "a number of the CPU in where": lambda: torch.where(there(3) > 0, torch.tensor(2.0), there(3)),
    "a number of the CPU in clamp": lambda: there(3).clamp(max=torch.tensor(2.0)),
    "a number of the CPU in a loss": lambda: nn.functional.mse_loss(there(), torch.tensor(2.0)),
    "a number of the CPU to fill with": lambda: there(3).masked_fill(there(3) > 0, torch.tensor(2.0)),
    "an index of the CPU": lambda: there(3)[torch.tensor([0, 2])],
    "a mask of the CPU as an index": lambda: there(3)[torch.tensor([True, False, True])],
    "a list as an index": lambda: there(3)[[0, 2]],
    "a number put at an index": lambda: put(there(3), torch.tensor([0]), torch.tensor(2.0)),
    "a slice filled from the CPU": lambda: put(there(3), slice(0, 2), torch.ones(2)),  # type: ignore[arg-type]
    "copy_": lambda: there(3).copy_(torch.ones(3)),
    "one_hot": lambda: nn.functional.one_hot(there(3).long(), 4),
    "like another": lambda: torch.zeros_like(there(3)) + there(3).new_zeros(3) + there(3).new_tensor([1.0, 2, 3]),
    "as another": lambda: torch.ones(3).to(there(2)) + torch.ones(3).type_as(there(2)),
    "from numpy": lambda: torch.as_tensor(np.ones(3), device="cuda") + torch.tensor([1, 2, 3], device="cuda"),
    "dropout": lambda: nn.functional.dropout(there(3)),
    "draws": lambda: torch.multinomial(there(3), 2) + torch.randperm(2, device="cuda") + there(2).bernoulli(),
    "convolutions": lambda: nn.Conv2d(1, 2, 3).to("cuda")(there(1, 1, 5, 5)),
    "a recurrent index": lambda: nn.GRUCell(3, 2).cuda()(there(1, 3)),
    "Fourier": lambda: torch.fft.irfft(torch.fft.rfft(there(8))),
    "norms": lambda: nn.utils.clip_grad_norm_([there(3).requires_grad_()], 1.0) + there(3).norm() + there(3).std(),
}


@pytest.mark.parametrize("right", RIGHT.values(), ids=RIGHT)
def test_what_cuda_permits_passes_and_stays_there(gpu: OtherDevice, right: Callable[[], Tensor]) -> None:
    assert right().device == CUDA


def test_tensors_of_the_cpu_are_left_alone(gpu: OtherDevice) -> None:
    x = there(3).cpu()
    assert x.device.type == "cpu" and x.is_cpu and not x.is_cuda
    assert (x + torch.arange(3)).device.type == "cpu" and torch.zeros_like(there(3), device="cpu").is_cpu
    assert x.to("cpu") is x and (y := there(3)).to(CUDA) is y and y.to("cuda", copy=True) is not y


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop])
@pytest.mark.parametrize("foreach", [True, False])
def test_training_is_that_of_the_cpu(gpu: OtherDevice, make: type[torch.optim.Optimizer], foreach: bool) -> None:
    nets = [nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.SiLU(), nn.Linear(4, 1))]
    nets.append(copy.deepcopy(nets[0]).to("cuda"))
    for net in nets:
        opt = make(net.parameters(), 0.01, foreach=foreach)  # type: ignore[call-arg]
        where = next(net.parameters()).device
        for _ in range(3):
            opt.zero_grad()
            net(torch.ones(2, 3, device=where)).square().sum().backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            opt.step()
        other = make(copy.deepcopy(net).parameters(), 0.01)  # type: ignore[call-arg]
        other.load_state_dict(copy.deepcopy(opt.state_dict()))
        assert all(x.device == where for s in other.state.values() for k, x in s.items() if k != "step")
    assert all(torch.equal(a, b.cpu()) for a, b in zip(*(net.parameters() for net in nets), strict=True))


def test_optimizers_do_not_ask_the_driver_which_a_build_for_cuda_may_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with PyTorch's build for CUDA where there is no GPU, whichever build is installed."""
    monkeypatch.setattr(torch._C, "_accelerator_getAccelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch._C, "_accelerator_getDeviceIndex", lambda: pytest.fail("asked the driver"))
    with OtherDevice():
        net = nn.Linear(3, 1).to("cuda")
        net(there(2, 3)).sum().backward()
        torch.optim.Adam(net.parameters()).step()


def test_a_gradient_goes_back_to_where_its_tensor_is(gpu: OtherDevice) -> None:
    x = torch.ones(3, requires_grad=True)
    (x.to("cuda") * there(3)).sum().backward()
    assert x.grad is not None and x.grad.device.type == "cpu" and torch.equal(x.grad, torch.ones(3))


def test_the_device_has_random_numbers_of_its_own(gpu: OtherDevice) -> None:
    torch.manual_seed(3)
    here, other = torch.rand(3), torch.rand(3, device="cuda")
    torch.manual_seed(3)
    again = torch.rand(3, device="cuda")
    assert torch.equal(other.cpu(), again.cpu()) and torch.equal(here, torch.rand(3))
    with torch.random.fork_rng([0]):
        forked = torch.rand(3, device="cuda")
    assert torch.equal(forked.cpu(), torch.rand(3, device="cuda").cpu())


@pytest.mark.parametrize(("kind", "dtype"), [("cuda", torch.bfloat16), ("cpu", torch.float32)])
def test_autocast_of_the_device_and_of_the_cpu_are_separate(gpu: OtherDevice, kind: str, dtype: torch.dtype) -> None:
    with torch.autocast(kind, torch.bfloat16):
        assert torch.is_autocast_enabled(kind) and not torch.is_autocast_enabled({"cuda": "cpu", "cpu": "cuda"}[kind])
        assert (there(2, 2) @ there(2, 2)).dtype == dtype


def test_waits_and_uploads_are_counted(gpu: OtherDevice) -> None:
    x = there(3)
    (x * 2).add_(1)[1:].sum()
    x[x < 0] = 1.0
    nn.functional.one_hot(x.long(), 2)
    assert not gpu.waits and not gpu.uploads
    float(x[0]), bool(x.any()), x.cpu(), x.tolist(), x.nonzero(), x[x > 0], torch.ones(3).copy_(x)
    kinds = {kind: sum(n for (k, _), n in gpu.waits.items() if k == kind) for kind, _ in gpu.waits}
    assert kinds == {"item": 2, "to": 1, "tolist": 1, "size": 2, "copy": 1}
    assert x.copy_(torch.ones(3)) is x and torch.ones(3).to(x.device).is_cuda
    assert sum(gpu.uploads.values()) == 2
