"""The networks and images by which methods are compared in what a step costs."""

TEACHER, STUDENT = "wrn_40_2", "wrn_16_2"
IMAGE, CLASSES, BATCH = (3, 32, 32), 100, 64
SETTING = (
    f"{TEACHER} -> {STUDENT}, images {'x'.join(map(str, IMAGE))}, {CLASSES} classes, batch {BATCH}"
)
"""What the numbers hold for, in words."""
