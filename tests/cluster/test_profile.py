from __future__ import annotations

from pathlib import Path

import pytest

from hpcbench.errors import InputError
from hpcbench.launch.slurm.slurm_profile import PROFILES_VARIABLE, find_profile, read_profile


def written(folder: Path, text: str, name: str = "site") -> Path:
    """Write a profile."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("partion: main", ":1: partion: unknown key (found 'partion'; allowed: account, partition"),
        ("partion: main", "Did you mean partition?"),
        (
            "account: a\npartition: 'main; rm -rf x'",
            ":2: partition: a value with characters that mean something",
        ),
        ("env: {A: '$(date)'}", ":1: env.A: a value with characters"),
        ("env: {'A B': x}", "not the name of a variable"),
        ('exclude: "n1\\nn2"', "exclude: a value with characters"),
        ("time: 90", "time: not of the right type"),
        ("gpu_request: gpu", "allowed: gpus_per_node, gres, gpus_per_task"),
        ("memory: lots", "an amount with its unit"),
        ("max_requeues: -1", "out of range"),
        ("- account", "not a map"),
        ("", "the file is empty"),
        ("account: a\naccount: b", "account"),
    ],
)
def test_what_is_wrong_with_a_profile(tmp_path: Path, text: str, said: str) -> None:
    """One message that names the line, the key, what was found and what is allowed."""
    with pytest.raises(InputError) as caught:
        read_profile(written(tmp_path, text))
    assert said in str(caught.value) and str(tmp_path) in str(caught.value)


def test_setup_and_extra_are_verbatim(tmp_path: Path) -> None:
    """Only there may a value say something to a shell; a constraint may use Slurm's own signs."""
    text = "setup: |\n  module load x; ulimit -l\n  a=$(b)\nextra: ['--comment=a b']\nconstraint: 'a&(b|c)'"
    profile = read_profile(written(tmp_path, text))
    assert profile.setup == ("module load x; ulimit -l", "a=$(b)")
    assert (profile.extra, profile.constraint) == (("--comment=a b",), "a&(b|c)")


def test_where_profiles_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the sweep, in the variable's folders, in the user's configuration, in the package."""
    monkeypatch.setenv(PROFILES_VARIABLE, f"{tmp_path / 'one'}:{tmp_path / 'two'}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "config").mkdir()
    sweep = tmp_path / "sweeps" / "a.yaml"
    assert find_profile("lab", [sweep]).partition == "main", "the package's own"
    for folder in (tmp_path / "config/hpcbench", tmp_path / "two", tmp_path / "one", sweep.parent):
        written(folder, f"account: {folder.name}", "lab")
        assert find_profile("lab", [sweep]).account == folder.name
    with pytest.raises(InputError, match=r"Did you mean lab\?"):
        find_profile("labb", [sweep])
    assert find_profile(str(tmp_path / "two" / "lab.yaml"), [sweep]).account == "two"
    assert find_profile(None, [sweep]).account is None


def test_the_card_that_can_not_copy_to_its_like() -> None:
    """The profile for four RTX 4090 switches P2P off and says how many there are."""
    profile = find_profile("rtx4090x4", [])
    assert profile.gpus_per_node == 4 and profile.env["NCCL_P2P_DISABLE"] == "1"
    assert "NCCL_SHM_DISABLE" not in profile.env
