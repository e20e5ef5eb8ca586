"""What `engine.py` measures: the rows that a CPU can run, and those of a GPU."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from contestants import Contestant

GPU_STEPS = 150


@dataclass(frozen=True)
class Row:
    """``fast`` against ``slow``, often a promise of the engine.

    Attributes:
        key: its name on the command line.
        what: in words.
        slow, fast: the contestants.
        reach: the least ratio of their images per second; None where nothing is promised.
        steps: of a baseline's round; ours takes as many.
    """

    key: str
    what: str
    slow: Contestant
    fast: Contestant
    reach: float | None
    steps: int = 12


WRN, MOBILE = ("wrn_40_2", "wrn_16_2"), ("wrn_40_4", "mobilenetv2_s2")


def base(teacher: str, student: str, method: str, **more: Any) -> Contestant:
    return Contestant("baseline", teacher, student, method, malloc=False, **more)


def cpu_rows(cores: int) -> list[Row]:
    """What a CPU can run."""

    def ours(teacher: str, student: str, method: str, **more: Any) -> Contestant:
        return Contestant("ours", teacher, student, method, **{"processes": cores, **more})

    wrn, mobile = WRN, MOBILE
    found = [
        Row(
            "kd_wrn",
            "KD WRN-40-2 -> WRN-16-2, second trial",
            base(*wrn, "kd"),
            ours(*wrn, "kd", precision="auto", table="full"),
            3.7,
        ),
        Row(
            "kd_wrn_fp32",
            "the same in fp32",
            base(*wrn, "kd"),
            ours(*wrn, "kd", table="full"),
            2.1,
        ),
        Row(
            "kd_mobile",
            "KD WRN-40-4 -> MobileNetV2, second trial",
            base(*mobile, "kd"),
            ours(*mobile, "kd", precision="auto", table="full"),
            6.0,
            steps=8,
        ),
    ]
    for method in ("at", "srd", "fitnet"):
        found.append(
            Row(
                f"live_{method}",
                f"{method} with the live teacher, WRN-40-2 -> WRN-16-2",
                base(*wrn, method),
                ours(*wrn, method, precision="auto"),
                2.0,
            )
        )
    found += [
        Row(
            "full_table",
            "KD with a full table against the plain student, WRN-40-2 -> WRN-16-2",
            ours(*wrn, "student", precision="auto"),
            ours(*wrn, "kd", precision="auto", table="full"),
            1 / 1.05,
            steps=24,
        ),
        Row(
            "filling",
            "KD that fills the table against the live teacher, WRN-40-2 -> WRN-16-2",
            ours(*wrn, "kd", precision="auto"),
            ours(*wrn, "kd", precision="auto", table="filling"),
            1 / 1.03,
            steps=24,
        ),
        Row(
            "building",
            "building the table against the teacher's forward passes, WRN-40-2",
            replace(ours(*wrn, "kd", precision="auto"), loop="forward"),
            replace(ours(*wrn, "kd", precision="auto", table="filling"), loop="forward"),
            0.95,
            steps=36,
        ),
    ]
    for name, pair in (("wrn", wrn), ("mobile", mobile)):
        plain = ours(*pair, "student")
        for lever, what, slow, fast in (
            ("bf16", "bf16 against fp32", plain, replace(plain, precision="bf16")),
            (
                "layout",
                "channels-last against contiguous",
                replace(plain, channels_last=False),
                plain,
            ),
            (
                "malloc",
                "keeping freed pages against the C library's default",
                replace(plain, malloc=False),
                plain,
            ),
            (
                "threads",
                "a trial per core against one with all cores",
                replace(plain, processes=1),
                plain,
            ),
        ):
            if lever == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
                continue  # only imitated here, which takes minutes
            found.append(Row(f"{lever}_{name}", f"{what}, {pair[1]} alone", slow, fast, None, 8))
    return found


def gpu_rows(cores: int) -> list[Row]:
    """What a GPU can run."""

    def ours(method: str, **more: Any) -> Contestant:
        return Contestant("ours", *WRN, method, **{"precision": "auto", "batch": 128, **more})

    known = ours("kd", table="full")
    packed = min(cores, 16)
    found = [
        Row(
            f"gpu_kd_{batch}",
            f"KD WRN-40-2 -> WRN-16-2, batch {batch}, second trial, compiled",
            base(*WRN, "kd", batch=batch),
            replace(known, batch=batch, compiled=True),
            10.0,
        )
        for batch in (64, 128)
    ]
    found += [
        Row(
            "gpu_packed",
            f"{packed} trials against one",
            known,
            replace(known, processes=packed),
            3.0,
        ),
        Row(
            "gpu_full_table",
            "KD with a full table against the plain student",
            ours("student"),
            known,
            1 / 1.05,
        ),
        Row(
            "gpu_filling",
            "KD that fills the table against the live teacher",
            ours("kd"),
            ours("kd", table="filling"),
            1 / 1.03,
        ),
        Row(
            "gpu_building",
            "building the table against the teacher's forward passes",
            replace(ours("kd"), loop="forward"),
            replace(ours("kd", table="filling"), loop="forward"),
            0.95,
        ),
        Row("gpu_compile", "compiled against not", known, replace(known, compiled=True), None),
        Row(
            "gpu_packed_compiled",
            f"{packed} compiled trials against one",
            replace(known, compiled=True),
            replace(known, compiled=True, processes=packed),
            None,
        ),
        Row(
            "gpu_eager", "KD, second trial, not compiled", base(*WRN, "kd", batch=128), known, None
        ),
        Row(
            "gpu_bf16",
            "bf16 against fp32",
            replace(known, precision="fp32"),
            replace(known, precision="bf16"),
            None,
        ),
        Row(
            "gpu_images",
            "images on the GPU against on the host",
            replace(known, images="host"),
            replace(known, images="device"),
            None,
        ),
        Row(
            "gpu_layout",
            "channels-last against contiguous",
            replace(known, channels_last=False),
            known,
            None,
        ),
    ]
    for method in ("at", "srd", "fitnet"):
        found.append(
            Row(
                f"gpu_live_{method}",
                f"{method} with the live teacher, compiled",
                base(*WRN, method, batch=128),
                ours(method, compiled=True),
                None,
            )
        )
    return [replace(row, steps=GPU_STEPS) for row in found]
