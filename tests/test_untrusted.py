"""Files of a dataset that is not trusted: what is read, what is refused, and that the error names the file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from dexh2r_gym.replay import ReplayError
from dexh2r_gym.replay.untrusted import MAX_TEXT, Folder, numbers


def test_what_is_in_the_folder_is_read(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "a.json").write_text('{"x": [1, 2.5, -3e-2]}')
    (tmp_path / "sub" / "a.yml").write_text("x: [1, 2.5]\ny: text")
    (tmp_path / "link.json").symlink_to("a.json")
    np.savez(tmp_path / "a.npz", a=np.arange(6).reshape(2, 3), b=np.zeros(4, np.float32))
    assert folder.names(".") == ["a.json", "a.npz", "link.json", "sub"] and folder.folders(".") == ["sub"]
    assert folder.json("a.json", ["x"]) == folder.json("link.json") == {"x": [1, 2.5, -0.03]}
    assert folder.below("sub").yaml("a.yml") == folder.yaml("sub/a.yml", ("x", "y")) == {"x": [1, 2.5], "y": "text"}
    a, b = folder.arrays("a.npz", a=(None, 3), b=(4,))
    assert a.tolist() == [[0, 1, 2], [3, 4, 5]] and a.dtype == b.dtype == np.float64
    os.utime(tmp_path / "a.json", ns=(0, 5))
    assert folder.stamps(["a.json"]) == {"a.json": [22, 5]}
    with pytest.raises(ReplayError, match="no such folder"):
        Folder(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "expected keys and values, found list"),
        ('{"y": 1}', "missing: x; expected at least x"),
        ('{"x": NaN}', "NaN is not a finite number"),
        ('{"x": 1e999}', "1e999 is not a finite number"),
        ("[" * 100_000, "cannot be read"),
        (" " * (MAX_TEXT + 1), "1048577 bytes, at most 1048576 are allowed"),
    ],
)
def test_bad_json_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a").write_text(text)
    with pytest.raises(ReplayError, match=message) as caught:
        Folder(tmp_path).json("a", ["x"])
    assert caught.value.key == "a"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x: &a [1]\ny: *a", "aliases are not allowed"),
        ("x: !!python/object/apply:os.getcwd []", "cannot be read"),
        ("x: !!bool maybe", "cannot be read"),
        ("x: !!timestamp soon", "cannot be read"),
        ("x: [", "cannot be read"),
    ],
)
def test_bad_yaml_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a").write_text(text)
    with pytest.raises(ReplayError, match=message) as caught:
        Folder(tmp_path).yaml("a")
    assert caught.value.key == "a"


@pytest.mark.parametrize("key", ["../outside", "link", "loop", "/etc/hostname", "folder/x"])
def test_what_leads_out_of_the_folder_is_refused(tmp_path: Path, key: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "outside").write_text("secret")
    (inside / "link").symlink_to(tmp_path / "outside")
    (inside / "loop").symlink_to("loop")
    (inside / "folder").symlink_to(tmp_path)
    with pytest.raises(ReplayError, match=r"leads out|cannot be followed|missing"):
        Folder(inside).text(key)


def test_a_list_of_numbers_is_told_from_everything_else() -> None:
    found = numbers([1, 2.5], 2)
    assert found is not None and found.tolist() == [1.0, 2.5]
    for value in ([1], [1, "2"], [1, True], [1, float("nan")], [1, 10**400], {1: 2}, None):
        assert numbers(value, 2) is None


def test_no_change_of_bytes_gets_past_the_reader_of_arrays(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.random.default_rng(0).normal(size=(20, 3)).round(2))
    content, rng, refused = path.read_bytes(), np.random.default_rng(1), 0
    for _ in range(400):
        changed = bytearray(content)
        for place in rng.integers(len(content), size=rng.integers(1, 4)):
            changed[place] = rng.integers(256)
        path.write_bytes(changed[: rng.integers(1, len(changed))] if rng.random() < 0.2 else changed)
        try:
            (array,) = Folder(tmp_path).arrays("a.npz", a=(None, 3))
            assert np.isfinite(array).all()
        except ReplayError as error:
            assert error.key == "a.npz"
            refused += 1
    assert refused > 300
