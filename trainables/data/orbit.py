"""How many views an image has under crop and flip."""


def number_of_views(padding: int, flip: bool, resized_crops: int = 0) -> int:
    """``(2p + 1)^2`` padded crops or ``K`` resized ones, twice as many with the flip.

    Args:
        padding: ``p``, zero pixels on each side before the crop; 0 beside resized crops.
        flip: whether a view may be mirrored.
        resized_crops: ``K``, boxes of which each is resized to the whole image; 0: padded crops.
    """
    return (resized_crops or (2 * padding + 1) ** 2) * (2 if flip else 1)
