"""How many views an image has under crop and flip."""


def number_of_views(padding: int, flip: bool) -> int:
    """``(2p + 1)^2``, twice that with the flip.

    Args:
        padding: ``p``, zero pixels on each side before the crop.
        flip: whether a view may be mirrored.
    """
    return (2 * padding + 1) ** 2 * (2 if flip else 1)
