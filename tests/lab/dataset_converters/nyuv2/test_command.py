"""The command `nyuv2.py`."""

from __future__ import annotations

import pytest

pytest.importorskip("h5py", reason="NYUv2 is an HDF5 file: pip install h5py")

import dataset_converters.nyuv2_conversion as conversion
from tests.lab.dataset_converters.nyuv2.nyuv2_support import tool


def test_the_command(sources, tmp_path, monkeypatch, capsys):
    out = tmp_path / "with blanks"
    arguments = [*map(str, sources[:2]), "--out", str(out), "--val-split", str(sources.val_split)]
    tool().main(arguments)
    with pytest.raises(SystemExit, match="min_size is 0; expected at least 1"):
        tool().main([*arguments, "--min-size", "0"])

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(conversion, "_write_image", interrupted)
    with pytest.raises(SystemExit, match="interrupted; the same command continues it"):
        tool().main([*arguments[:3], str(tmp_path / "other")])
