"""CIFAR as it is distributed, and what is wrong with files that are not."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from hpcbench.errors import InputError
from hpcbench.tasks import cifar_files
from hpcbench.tasks.cifar_files import write_cifar_file
from hpcbench.tasks.data_check import check_data, find_data_problem
from hpcbench.tasks.shared_folders import GENERATED_MARKER
from tests.data.conftest import Load, images_of

TRAIN_10 = [f"cifar-10-batches-py/data_batch_{number}" for number in range(1, 6)]


@pytest.fixture
def cifar10(generated: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(generated / "cifar10", tmp_path / "cifar10"))


@pytest.fixture
def ordinary_user() -> Iterator[None]:
    """Root may read everything: take its rights away for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


def _rewrite(path: Path, change: Any) -> None:
    content = pickle.loads(path.read_bytes(), encoding="bytes")
    change(content)
    path.write_bytes(pickle.dumps(content, protocol=2))


def test_pickles_are_read_as_images(generated: Path) -> None:
    """Rows of 1,024 red, green and blue values become images; fine labels are taken."""
    part = cifar_files.read_cifar("cifar100", generated / "cifar100", "train")
    content = pickle.loads((generated / "cifar100/cifar-100-python/train").read_bytes(), encoding="bytes")
    assert part.labels.tolist() == content[b"fine_labels"]
    image = part.decode([7])[0]
    assert image.shape == (32, 32, 3)
    assert image[3, 5].tolist() == [content[b"data"][7][channel * 1024 + 3 * 32 + 5] for channel in range(3)]


def test_files_of_python_2_are_read(tmp_path: Path) -> None:
    """The distributed files come from Python 2: names of numpy's old modules, text without an encoding."""
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    rows = np.arange(2 * 3072, dtype=np.uint32).astype(np.uint8).reshape(2, -1)
    # What Python 2 wrote: the array's bytes as a string of protocol 2 (opcode T), not as encoded text.
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN" + 2 * b"J\xff\xff\xff\xff" + b"K\x00tb"
    state = b"(K\x01K\x02M\x00\x0c\x86" + dtype + b"\x89"
    head = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    data = head + state + b"T" + len(rows.tobytes()).to_bytes(4, "little") + rows.tobytes() + b"tb"
    (folder / "train").write_bytes(
        b"\x80\x02}(U\x04data" + data + b"U\x0bfine_labels](K\x05K\x06eU\x0dcoarse_labels](K\x01K\x01eu."
    )
    (tmp_path / GENERATED_MARKER).write_text('{"samples": {"train": 2, "test": 0}}')
    part = cifar_files.read_cifar("cifar100", tmp_path, "train")
    assert part.labels.tolist() == [5, 6]
    assert np.array_equal(part.decode([1])[0, 0, :4, 0], rows[1, :4])


def test_parquet_gives_the_same_images(generated: Path, tmp_path: Path, load: Load) -> None:
    """Hugging Face's layout holds PNG pictures: bit-equal to the pickles."""
    import io

    (tmp_path / "hf" / "cifar100").mkdir(parents=True)
    shutil.copy(generated / "cifar100" / GENERATED_MARKER, tmp_path / "hf")
    for name in ("train", "test"):
        part = cifar_files.read_cifar("cifar100", generated / "cifar100", name)
        pictures = []
        for image in part.decode(np.arange(len(part.labels))):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            pictures.append({"bytes": buffer.getvalue(), "path": None})
        table = pyarrow.table({"img": pictures, "fine_label": part.labels, "coarse_label": part.labels // 5})
        pyarrow.parquet.write_table(table, tmp_path / "hf" / "cifar100" / f"{name}-00000-of-00001.parquet")
    plain, parquet = load("cifar100", generated / "cifar100"), load("cifar100", tmp_path / "hf")
    assert torch.equal(images_of(plain, 0), images_of(parquet, 0))


def test_pickle_that_imports_os_is_refused(cifar10: Path) -> None:
    """A file that would run a command is not run: the message names the file and the command."""
    victim = cifar10 / "ran"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {victim}",)

    path = cifar10 / TRAIN_10[2]
    path.write_bytes(pickle.dumps({b"data": Evil(), b"labels": []}, protocol=2))
    with pytest.raises(InputError, match=r"data_batch_3: this pickle would run \w+\.system.*data check"):
        cifar_files.read_cifar("cifar10", cifar10, "train")
    assert not victim.exists()


def test_batch_of_another_length_is_named(cifar10: Path) -> None:
    """One file with fewer images than the others is the one that is wrong."""

    def shorten(content: dict[bytes, Any]) -> None:
        content[b"data"], content[b"labels"] = content[b"data"][:20], content[b"labels"][:20]

    _rewrite(cifar10 / TRAIN_10[0], shorten)
    with pytest.raises(InputError, match=r"data_batch_1: 20 images, and 24 in the other files"):
        cifar_files.read_cifar("cifar10", cifar10, "train")


def test_labels_and_images_must_be_equally_many(cifar10: Path) -> None:
    """A label too few is found in the file that lacks it."""
    _rewrite(cifar10 / TRAIN_10[4], lambda content: content[b"labels"].pop())
    with pytest.raises(InputError, match=r"data_batch_5: 24 images and 23 labels"):
        cifar_files.read_cifar("cifar10", cifar10, "train")


def test_whole_data_set_has_the_known_length(cifar10: Path) -> None:
    """Files that agree with each other but are not the 50,000 images are refused, unless marked generated."""
    (cifar10 / GENERATED_MARKER).unlink()
    with pytest.raises(InputError, match=r"cifar-10-batches-py: 120 train images instead of 50,000"):
        cifar_files.read_cifar("cifar10", cifar10, "train")


@pytest.mark.parametrize("content", [b"", b"\x80\x02}q", b"not a pickle at all", b"\x80\x02]."])
def test_broken_file_is_named(cifar10: Path, content: bytes) -> None:
    """An empty, cut off or foreign file gives a message, not a traceback."""
    (cifar10 / TRAIN_10[1]).write_bytes(content)
    with pytest.raises(InputError, match=r"data_batch_2: .*Get it anew"):
        cifar_files.read_cifar("cifar10", cifar10, "train")


def test_cut_off_file_is_named(cifar10: Path) -> None:
    """Half a download is found."""
    path = cifar10 / TRAIN_10[1]
    path.write_bytes(path.read_bytes()[:40_000])
    with pytest.raises(InputError, match=r"data_batch_2: broken or cut off"):
        cifar_files.read_cifar("cifar10", cifar10, "train")


def test_missing_file_is_named(cifar10: Path) -> None:
    """One file that is lost among others is named; so is the folder where all are."""
    (cifar10 / TRAIN_10[3]).unlink()
    with pytest.raises(InputError, match=r"data_batch_4: this file is missing"):
        cifar_files.read_cifar("cifar10", cifar10, "train")
    shutil.rmtree(cifar10 / "cifar-10-batches-py")
    with pytest.raises(InputError, match=r"cifar10: the train files of cifar10 are not here"):
        cifar_files.read_cifar("cifar10", cifar10, "train")


def test_labels_out_of_range_are_refused(cifar10: Path) -> None:
    """A class that there is not would crash the loss on a GPU."""
    _rewrite(cifar10 / TRAIN_10[0], lambda content: content[b"labels"].__setitem__(3, 10))
    with pytest.raises(InputError, match=r"labels outside 0 to 9 \(found 10\)"):
        cifar_files.read_cifar("cifar10", cifar10, "train")


def test_folder_without_permission_is_named(cifar10: Path, ordinary_user: None) -> None:
    """A folder that may not be read is no missing folder."""
    assert "no permission to read the data" in (find_data_problem("cifar10", str(cifar10), {}) or "")


def test_check_says_how_to_get_what_is_missing(tmp_path: Path) -> None:
    """The report has the problem and the commands, with the checksum of the archive."""
    report = check_data("cifar100", str(tmp_path))
    text = "\n".join(report.lines())
    assert not report.is_complete
    assert "the train files of cifar100 are not here" in text
    assert "eb9058c3a382ffc7106e4002c42a8d85  cifar-100-python.tar.gz" in text
    assert f"tar -xzf cifar-100-python.tar.gz -C {tmp_path}" in text


def test_check_says_that_generated_data_is_no_real_data(generated: Path) -> None:
    """What --smoke made is whole, and called what it is."""
    report = check_data("cifar10", str(generated / "cifar10"))
    assert report.is_complete
    assert report.found == {"train": 120, "evaluation": 30}
    assert "generated" in "\n".join(report.lines())


def test_written_file_can_be_read_back(tmp_path: Path) -> None:
    """The writer of generated data and the reader agree with Python's own pickle."""
    rows = np.arange(3072, dtype=np.uint32).astype(np.uint8)[None]
    write_cifar_file(tmp_path / "f", cifar_files.CIFAR_EDITIONS["cifar10"], rows, [4])
    content = pickle.loads((tmp_path / "f").read_bytes(), encoding="bytes")
    assert np.array_equal(content[b"data"], rows)
    assert content[b"labels"] == [4]
