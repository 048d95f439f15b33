"""Caches change the speed and nothing else, hold one copy, and leave nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hpcbench.errors import InputError
from hpcbench.tasks import image_cache
from hpcbench.tasks.shared_folders import remove_stale, share_path
from hpcbench.training.session import find_out_of_memory
from tests.data.conftest import Load, images_of

ROOT = Path(__file__).parents[2]
DECODED: dict[str, Any] = {"image_size": 32, "decoded_size": 40}
CACHES: dict[str, dict[str, Any]] = {
    "none": {},
    "none, two workers": {"workers": 2},
    "memory": {"cache": "memory"},
    "device": {"cache": "device"},
}
ON_DISK: dict[str, dict[str, Any]] = {
    "disk": {"disk_cache": True},
    "disk and memory": {"disk_cache": True, "cache": "memory"},
}


def _epochs(load: Load, name: str, folder: Path, ranks: int, fields: dict[str, Any]) -> list[torch.Tensor]:
    """Return the global batches of two epochs, put together from the shards of all ranks."""
    datasets = [load(name, folder, rank=rank, **fields) for rank in range(ranks)]
    return [
        torch.cat([images_of(dataset, epoch, rank, ranks) for rank, dataset in enumerate(datasets)], dim=1)
        for epoch in (0, 1)
    ]


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_cifar_is_the_same_from_every_cache(load: Load, generated: Path, ranks: int) -> None:
    """none, memory and device give bit-equal batches for any number of ranks, and new crops each epoch."""
    expected = _epochs(load, "cifar100", generated / "cifar100", 1, {})
    for fields in CACHES.values():
        seen = _epochs(load, "cifar100", generated / "cifar100", ranks, fields)
        assert all(torch.equal(one, other) for one, other in zip(seen, expected, strict=True)), fields
    assert not torch.equal(expected[0].sort(0).values, expected[1].sort(0).values)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_decoded_pictures_are_the_same_from_every_cache(load: Load, generated: Path, ranks: int) -> None:
    """The same for pictures of one decoded size, which may also be kept on disk."""
    folder = generated / "imagenet"
    expected = _epochs(load, "imagenet", folder, 1, {"options": DECODED})
    kinds = {**CACHES, **ON_DISK} if ranks == 2 else {**CACHES, "disk": ON_DISK["disk"]}
    for kind, fields in kinds.items():
        seen = _epochs(load, "imagenet", folder, ranks, {"options": DECODED, **fields})
        assert all(torch.equal(one, other) for one, other in zip(seen, expected, strict=True)), kind


def test_whole_pictures_are_the_same_from_workers(load: Load, generated: Path) -> None:
    """Where the crop is taken while decoding, the number of processes changes nothing."""
    fields: dict[str, Any] = {"options": {"image_size": 48}}
    expected = _epochs(load, "imagenet", generated / "imagenet", 1, fields)
    for ranks, workers in ((1, 3), (2, 1)):
        seen = _epochs(load, "imagenet", generated / "imagenet", ranks, {**fields, "workers": workers})
        assert all(torch.equal(one, other) for one, other in zip(seen, expected, strict=True))


def test_channels_last_changes_no_value(load: Load, generated: Path) -> None:
    """Images lie otherwise in memory and are the same."""
    plain = load("cifar10", generated / "cifar10").train_batch(torch.arange(8), 0).images
    last = load("cifar10", generated / "cifar10", channels_last=True).train_batch(torch.arange(8), 0).images
    assert torch.equal(plain, last)
    assert last.is_contiguous(memory_format=torch.channels_last)


def test_processes_that_were_abandoned_go_on_with_the_next_epoch(load: Load, generated: Path) -> None:
    """An epoch that is cut short leaves nothing of itself in the next one."""
    fields: dict[str, Any] = {"options": {"image_size": 32}, "workers": 2}
    dataset = load("imagenet", generated / "imagenet", **fields)
    batches = dataset.train_batches(list(torch.arange(120).split(10)), 0)
    next(batches)
    del batches
    again = next(iter(dataset.train_batches([torch.arange(10)], 1)))
    assert torch.equal(again.images, dataset.train_batch(torch.arange(10), 1).images)


def _start(arguments: list[str], **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.data.rank", *arguments]
    variables = {**os.environ, **environment}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=variables, stdout=pipe, stdin=pipe, text=True)


def _read(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    facts: dict[str, Any] = json.loads(process.stdout.readline())
    return facts


def _go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_four_ranks_share_one_copy_in_memory(tmp_path: Path) -> None:
    """Four processes map the same pixels: together they take the memory of one copy, and no name is left."""
    samples = 12_000  # 36 MB decoded
    ranks = [
        _start(["memory", str(tmp_path), str(rank), str(samples)], OMP_NUM_THREADS="1") for rank in range(4)
    ]
    facts = [_read(rank) for rank in ranks]
    assert len({fact["checksum"] for fact in facts}) == 1
    assert len({fact["inode"] for fact in facts}) == 1
    pixels = samples * 32 * 32 * 3
    proportional = sum(fact["proportional_bytes"] for fact in facts)
    assert proportional < 1.2 * pixels, [fact["proportional_bytes"] for fact in facts]
    assert all(fact["resident_bytes"] >= 0.9 * pixels for fact in facts)
    for rank in ranks:
        _go_on(rank)
        assert rank.wait(timeout=30) == 0
    assert not Path(facts[0]["path"]).exists()


def test_killed_run_leaves_nothing_once_it_trains(tmp_path: Path) -> None:
    """After start-up the shared memory has no name any more: the kernel frees it, however the ranks end."""
    ranks = [_start(["memory", str(tmp_path), str(rank), "500"]) for rank in range(2)]
    facts = [_read(rank) for rank in ranks]
    path = Path(facts[0]["path"])
    _go_on(ranks[0])
    _go_on(ranks[1])
    assert [_read(rank)["ready"] for rank in ranks] == [True, True]
    for rank in ranks:
        rank.send_signal(signal.SIGKILL)
        rank.wait()
    assert not path.exists()


def test_next_run_removes_what_a_killed_one_has_left(tmp_path: Path) -> None:
    """A run that was killed while starting leaves a file: the next one on the node takes it away."""
    rank = _start(["memory", str(tmp_path), "0", "500"])
    path = Path(_read(rank)["path"])
    assert path.exists()
    rank.send_signal(signal.SIGKILL)
    rank.wait()
    assert path.exists()
    remove_stale(path.parent, "hpcbench-")
    assert not path.exists()


def test_sweep_spares_what_is_in_use(tmp_path: Path) -> None:
    """A lock that somebody holds protects the file."""
    shared = share_path(tmp_path / "hpcbench-x", lambda path: path.write_text("in use") and None)
    command = f"from pathlib import Path; from hpcbench.tasks.shared_folders import remove_stale; print(remove_stale(Path({str(tmp_path)!r}), 'hpcbench-'))"  # fmt: skip  # noqa: E501
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert shared.path.read_text() == "in use"
    shared.release()
    assert not list(tmp_path.iterdir())


def test_maker_that_fails_leaves_the_work_to_the_next(tmp_path: Path) -> None:
    """An error while a cache is filled leaves no half of it."""

    def fail(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        share_path(tmp_path / "thing", fail)
    assert [each.name for each in tmp_path.iterdir()] == ["thing.lock"]
    shared = share_path(tmp_path / "thing", lambda path: path.write_text("whole") and None)
    assert shared.path.read_text() == "whole"


def test_cache_that_does_not_fit_is_a_memory_limit(load: Load, generated: Path, monkeypatch: Any) -> None:
    """The error counts as running out of memory and has the size that was asked for."""
    small = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: small)
    with pytest.raises(
        MemoryError, match=r"decoded images of [0-9,]+ bytes do not fit: .* has 1,000 free"
    ) as got:
        load("cifar10", generated / "cifar10", cache="memory")
    memory = find_out_of_memory(got.value)
    assert memory is not None
    assert memory.asked_bytes is not None
    assert memory.asked_bytes > 120 * 32 * 32 * 3


def _disk_file(load: Load, generated: Path, cache_folder: Path) -> Path:
    images_of(load("imagenet", generated / "imagenet", options=DECODED, disk_cache=True), 0)
    return next(cache_folder.glob("decoded/train-*.images"))


def test_cache_is_filled_by_processes(load: Load, generated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Larger data sets are decoded by several processes; the pixels are those of one."""
    alone = load("imagenet", generated / "imagenet", options=DECODED, cache="memory")
    alone.all_ranks_loaded()  # its memory has no name any more: the next one has to be filled
    monkeypatch.setattr(image_cache, "IMAGES_PER_BLOCK", 50)
    many = load("imagenet", generated / "imagenet", options=DECODED, cache="memory", rank=1)
    monkeypatch.undo()
    assert torch.equal(images_of(alone, 0), images_of(many, 0))


def test_disk_cache_is_written_once(load: Load, generated: Path, cache_folder: Path) -> None:
    """A second run finds it; other pixels go into a file of their own."""
    path = _disk_file(load, generated, cache_folder)
    written = path.stat().st_mtime_ns
    _disk_file(load, generated, cache_folder)
    assert path.stat().st_mtime_ns == written
    load("imagenet", generated / "imagenet", options={**DECODED, "decoded_size": 48}, disk_cache=True)
    assert len(list(cache_folder.glob("decoded/train-*.images"))) == 2


def test_disk_cache_that_is_cut_off_is_refused(load: Load, generated: Path, cache_folder: Path) -> None:
    """The length is checked when it is opened; the message says how to get rid of the file."""
    path = _disk_file(load, generated, cache_folder)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)
    with pytest.raises(InputError, match=rf"{path.name}: [0-9,]+ bytes instead of .*rm {path}"):
        _disk_file(load, generated, cache_folder)


def test_disk_cache_with_one_wrong_byte_is_refused(load: Load, generated: Path, cache_folder: Path) -> None:
    """Each image is held against its checksum before it is trained on."""
    path = _disk_file(load, generated, cache_folder)
    with path.open("r+b") as file:
        file.seek(-40 * 40 * 3 * 7, os.SEEK_END)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    dataset = load("imagenet", generated / "imagenet", options=DECODED, disk_cache=True)
    dataset.train_batch(torch.arange(113), 0)
    with pytest.raises(InputError, match=rf"{path.name}: image 113 is not as it was written"):
        dataset.train_batch(torch.arange(120), 0)


@pytest.mark.parametrize("content", [b"", b"something else", b"\0" * 5000])
def test_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    """Whatever lies under the cache's name is not taken for images."""
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(InputError, match=r"f: no file of decoded images"):
        image_cache.open_images(tmp_path / "f", "key")


def test_waiting_ranks_get_what_the_first_one_makes(tmp_path: Path) -> None:
    """While one process makes a thing, others wait for it and do not make it again."""
    program = """
import sys, time
from pathlib import Path
from hpcbench.tasks.shared_folders import share_path
def make(path):
    time.sleep(0.3)
    path.write_text(sys.argv[2])
shared = share_path(Path(sys.argv[1]), make)
print(shared.path.read_text(), flush=True)
sys.stdin.readline()
"""
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "thing"), str(number)],
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    told = {maker.stdout.readline().strip() for maker in makers if maker.stdout}
    assert len(told) == 1
    for maker in makers:
        _go_on(maker)
        maker.wait()
