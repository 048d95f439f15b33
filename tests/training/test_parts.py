"""The small parts that a training rank is made of."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from hpcbench.runs.events import PHASES
from hpcbench.runs.run_environment import describe_environment
from hpcbench.sweep.run_spec import RunSpec
from hpcbench.tasks.task_registry import MODELS
from hpcbench.training.loop import tensor_checksum
from hpcbench.training.measurement import HostTimeline, PhaseClock
from hpcbench.training.precision import LossScaler, RunPrecision

PRETENDED_STEP = {"data_wait": 0.002, "forward_backward": 0.01, "exchange": 0.005, "update": 0.001}


def test_phases_add_up_to_the_window() -> None:
    """Whatever is done in a window is in exactly one phase."""
    clock = PhaseClock(HostTimeline())
    clock.begin()
    for _ in range(3):
        for phase, seconds in PRETENDED_STEP.items():
            clock.enter(phase)
            time.sleep(seconds)
    clock.enter("other")
    time.sleep(0.004)
    times = clock.end()
    assert set(times.phase_s) == set(PHASES)
    assert sum(times.phase_s.values()) == pytest.approx(times.wall_s, rel=1e-9)
    assert times.phase_s["forward_backward"] > times.phase_s["exchange"] > times.phase_s["update"] > 0
    assert times.phase_s["other"] >= 0.004


def test_steps_leave_out_what_follows_the_last_one() -> None:
    """The barrier that ends a window is no part of its last step."""
    clock = PhaseClock(HostTimeline())
    clock.begin()
    for _ in range(2):
        clock.enter("data_wait")
        time.sleep(0.005)
    clock.enter("other")
    time.sleep(0.05)
    times = clock.end()
    assert len(times.step_s) == 2
    assert max(times.step_s) < 0.05


class CountingMarker(HostTimeline):
    """The host's clock, with a note of when it was waited for."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def mark(self) -> int:
        """Note the mark."""
        self.calls.append("mark")
        return super().mark()

    def wait(self) -> None:
        """Note the wait."""
        self.calls.append("wait")


def test_window_waits_for_the_device_at_its_ends_only() -> None:
    """However many steps and phases: nothing waits for the device between the first mark and the last."""
    marker = CountingMarker()
    clock = PhaseClock(marker)
    for _ in range(2):
        marker.calls.clear()
        clock.begin()
        for _ in range(5):
            for phase in ("data_wait", "forward_backward", "exchange", "update"):
                clock.enter(phase)
        clock.enter("other")
        assert len(clock.end().step_s) == 5
        assert marker.calls == ["wait", *["mark"] * 23, "wait"]


def test_checksum_sees_a_single_bit_and_a_swap() -> None:
    """One changed bit, two swapped values or two swapped tensors change the checksum; a copy does not."""
    weights = {"a": torch.randn(100, dtype=torch.float64), "b": torch.randn(7), "c": torch.tensor(3)}
    names = ["a", "b", "c"]
    first = tensor_checksum(weights, names)
    assert first == tensor_checksum({name: value.clone() for name, value in weights.items()}, names)
    one_bit = {**weights, "a": weights["a"].clone()}
    one_bit["a"].view(torch.int64)[5] ^= 1
    swapped = {**weights, "b": weights["b"].flip(0)}
    assert (
        len(
            {
                first,
                tensor_checksum(one_bit, names),
                tensor_checksum(swapped, names),
                tensor_checksum(weights, ["b", "a", "c"]),
            }
        )
        == 4
    )


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_models_return_logits(name: str, stem: str) -> None:
    """Every model of the table takes a small image and returns a logit for each class."""
    entry = MODELS[name]
    channels = entry.input_channels or 1
    model: nn.Module = entry.load()(channels=channels, classes=11, stem=stem if entry.stems else None)
    assert model(torch.randn(2, channels, 32, 32)).shape == (2, 11)


def test_resnet18_has_the_published_number_of_parameters() -> None:
    """11,689,512 at 1,000 classes with the ImageNet stem, as torchvision documents it."""
    model = MODELS["resnet18"].load()(channels=3, classes=1000, stem="imagenet")
    assert sum(p.numel() for p in model.parameters()) == 11_689_512


def test_initial_state_depends_on_the_seed_alone() -> None:
    """Two builds with one seed are bit-equal, whatever random numbers were drawn before."""
    from hpcbench.tasks.in_memory_datasets import load_digits
    from hpcbench.training.training_run import build_model

    device = torch.device("cpu")
    dataset = load_digits(device=device, dtype=torch.float32)
    spec = RunSpec(name="n", strategy="single_gpu", seed=5)
    first = build_model(spec, dataset, device, torch.float32).state_dict()
    torch.rand(17)
    second = build_model(spec, dataset, device, torch.float32).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_scaler_skips_a_step_that_overflowed_and_lowers_its_scale() -> None:
    """A gradient that is not finite changes no weight, is counted, and halves the scale."""
    arithmetic = RunPrecision("amp_fp16", torch.device("cpu"))
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    weight.grad = torch.tensor([1.0, float("inf"), 1.0])
    arithmetic.step(optimizer, None)
    assert torch.equal(weight.detach(), torch.ones(3))
    assert arithmetic.skipped_updates == 1


def test_scaled_gradient_equals_the_plain_one() -> None:
    """The scale is a power of two: dividing by it gives the unscaled gradient exactly."""
    weight = nn.Parameter(torch.tensor([0.3, -0.7]))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scaler = LossScaler()
    ((weight**2).sum() * scaler.scale).backward()
    assert scaler.unscale(optimizer, None)
    assert weight.grad is not None
    assert torch.equal(weight.grad, 2 * weight.detach())


def test_scale_grows_after_enough_good_steps() -> None:
    """The scale doubles after `growth_interval` finite steps in a row, and counting begins anew."""
    scaler = LossScaler(scale=8.0, growth_interval=3)
    for finite in (True, True, False, True, True, True):
        scaler.adapt(finite)
    assert scaler.scale == 8.0


def test_environment_names_what_a_comparison_must_hold_equal() -> None:
    """Versions, processor, cores and the variables that change speed are recorded."""
    facts = describe_environment({"NCCL_P2P_DISABLE": "1", "HOME": "private"})
    assert facts["packages"]["torch"].startswith(torch.__version__.split("+")[0])
    assert facts["cores_usable"] >= 1
    assert facts["variables"] == {"NCCL_P2P_DISABLE": "1"}
