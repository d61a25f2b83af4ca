"""How sure a mean over images is: percentile bootstrap (Efron 1979)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from captum_extremal._checks import check_count, check_number
from captum_extremal.metrics.outcomes import Outcome, check_outcomes


def bootstrap_interval(
    outcomes: Sequence[Outcome], *, confidence: float = 0.95, samples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The interval of ``summarise(outcomes).mean`` when the images are drawn again, with replacement.

    Images are drawn, not pairs: the classes of one image are not independent. Outcomes of one label alone give the
    interval of their plain mean; so give ``labels`` that are all alike where most classes have a single image, for a
    class that is drawn twice counts once, and the interval of the mean over classes is then too narrow. Pairs without
    the name of an image count as an image each. Skipped pairs play no part.

    Args:
        outcomes: as :func:`summarise` takes them.
        confidence: the share of the drawn means that lies inside, as much left out below as above.
        samples: how many times the images are drawn.
        seed: of a random state of its own.

    Returns:
        the lower and the upper end; NaN without a counted pair.

    Raises:
        TypeError, ValueError: these are no outcomes, the confidence is no number between 0 and 1, or the others are no
            such counts.
    """
    check_outcomes(outcomes)
    check_number("confidence", confidence, above=0, below=1)
    check_count("samples", samples)
    check_count("seed", seed, at_least=0)
    # A pair without the name of its image is an image of its own, whatever batch it comes from.
    named = [(row if one.image is None else (one.image,), one) for row, one in enumerate(outcomes)]
    counted = [(image, one.label, one.value) for image, one in named if one.value is not None]
    if not counted:
        return float("nan"), float("nan")
    images, labels, values = zip(*counted)
    image_of = {image: row for row, image in enumerate(dict.fromkeys(images))}
    class_of = {label: column for column, label in enumerate(dict.fromkeys(labels))}
    sums, counts = np.zeros((2, len(image_of), len(class_of)))
    cells = [image_of[image] for image in images], [class_of[label] for label in labels]
    np.add.at(sums, cells, values)
    np.add.at(counts, cells, 1)
    times = np.random.default_rng(seed).multinomial(len(image_of), [1 / len(image_of)] * len(image_of), size=samples)
    drawn_counts = times @ counts
    by_class = np.divide(times @ sums, drawn_counts, where=drawn_counts > 0, out=np.full(drawn_counts.shape, np.nan))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.nanmean(by_class, axis=1), [tail, 1 - tail])
    return float(low), float(high)
