"""Move true 3D boxes at random, let f mend them: mean IoU before and after.

    python tools/analysis_tools/jittered_boxes.py CONFIG CHECKPOINT [CHECKPOINT ...]

CONFIG is that of an EBM3DDetector, for example configs/demo/lidar_kitti_frames_ebm.py.

Measures f alone, without what the detector finds, on the frames of ``val_dataloader``; that is
what a handful of labelled frames allow. Boxes start at draws from the noise distribution that the
head was trained with. Several checkpoints, of several seeds, give a mean and its spread.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from mmengine.config import Config, DictAction
from rich.console import Console

from ebm_mmdet.engine.command_line import merge_options
from ebm_mmdet.files import write_json
from lab.demo import report
from lab.demo.evaluate import load_model, val_loader
from lab.studies.jittered_boxes import refine_jittered_boxes


def main(arguments: list[str] | None = None) -> list[dict]:
    """Measure, print, and return ``before`` and ``after`` per checkpoint."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config of an EBM3DDetector")
    parser.add_argument("checkpoints", nargs="+", help="one per seed")
    parser.add_argument("--copies", type=int, default=100, help="per box (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moves (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="JSON file for the numbers; must not exist")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction)
    options = parser.parse_args(arguments)
    if options.out and options.out.exists():
        parser.error(f"--out {options.out} exists; name a new file, or move that one away")

    cfg = Config.fromfile(options.config)
    merge_options(cfg, options.cfg_options)
    results = [_measure(cfg, path, options) for path in options.checkpoints]
    for frame in results[0]["frames"]:
        print(
            f"frame {frame['name']}: {frame['boxes']} boxes, mean 3D IoU "
            f"{frame['before']:.3f} to {frame['after']:.3f}"
        )
    title = f"{options.copies} moved copies of each box"
    Console().print(report.screen_table(results, title, before="moved"))
    print(report.markdown_table(results, before="moved"))
    if options.out:
        write_json(options.out, results)
    return results


def _measure(cfg: Config, checkpoint: str, options: argparse.Namespace) -> dict:
    model, loader = load_model(cfg, checkpoint), val_loader(cfg)
    found = list(refine_jittered_boxes(model, loader, options.copies, options.seed))
    if not found:
        raise SystemExit(
            "no frame of val_dataloader has objects of the config's classes in the detector's range"
        )
    values = {}
    for when in ("before", "after"):
        boxes = [getattr(frame, when) for frame in found]
        in_3d = np.concatenate([f.iou(b) for f, b in zip(found, boxes)])
        bev = np.concatenate([f.iou(b, bev=True) for f, b in zip(found, boxes)])
        values[when] = {
            "mean 3D IoU": in_3d.mean(),
            "mean BEV IoU": bev.mean(),
            **{f"3D IoU over {t}, %": 100 * (in_3d > t).mean() for t in (0.7, 0.8, 0.9)},
        }
        values[when] = {name: float(value) for name, value in values[when].items()}
    frames = [
        {
            "name": f.frame,
            "boxes": len(f.truth),
            "before": float(f.iou(f.before).mean()),
            "after": float(f.iou(f.after).mean()),
        }
        for f in found
    ]
    return {"checkpoint": checkpoint, **values, "frames": frames}


if __name__ == "__main__":
    main()
