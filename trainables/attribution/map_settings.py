"""What a teacher's stored maps are: the settings that decide every value. Known without torch."""

from dataclasses import dataclass, fields
from typing import Any

TARGETS = ("label", "teacher")
"""What is explained: the logit of the image's own label, or of the teacher's first choice."""

BASELINES = ("mean", "black", "white")
"""Images that say nothing: the mean colour, which is 0 in normalised images; black; white."""

QUADRATURES = ("gausslegendre", "riemann_middle")
"""Where on the way from the baseline gradients are taken, in captum's words."""

STEPS = 100
"""Of the quadrature. The paper finds 20 to 300 enough. Of ResNet-20 and CIFAR-10, 50 miss
completeness by 1.6 % on average and 100 by less than 1 %: the network is piecewise linear, so that
no quadrature does much better."""

FEW = 0.5
"""Where less than this share of the images is trained on, only their maps are computed."""


@dataclass(frozen=True, kw_only=True)
class MapSettings:
    """Settings of integrated gradients of a training set.

    Attributes:
        target: one of `TARGETS`. Of an image with several labels ``label`` is the sum of the
            logits of all its true classes; of an image with none the map is 0 everywhere.
        baseline: one of `BASELINES`.
        steps: gradients of each image.
        quadrature: one of `QUADRATURES`.
    """

    target: str = "label"
    baseline: str = "mean"
    steps: int = STEPS
    quadrature: str = "gausslegendre"

    def __post_init__(self) -> None:
        for name, known in (
            ("target", TARGETS),
            ("baseline", BASELINES),
            ("quadrature", QUADRATURES),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: one of {', '.join(known)}, not {getattr(self, name)!r}")
        if self.steps < 1:
            raise ValueError(f"steps: at least 1, not {self.steps}")

    @classmethod
    def of(cls, config: Any) -> "MapSettings":
        """Of any config: from those fields that it has; the others keep their defaults."""
        names = [field.name for field in fields(cls) if hasattr(config, field.name)]
        return cls(**{name: getattr(config, name) for name in names})

    @property
    def facts(self) -> dict[str, Any]:
        """For rows."""
        return {
            "explainer": "integrated_gradients",
            "target": self.target,
            "baseline": self.baseline,
            "steps": self.steps,
            "quadrature": self.quadrature,
        }

    def __str__(self) -> str:
        return f"IG of {self.target} from {self.baseline}, {self.steps} steps"
