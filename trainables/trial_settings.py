"""What a trial has settings of: a record for each subject, of which its config is made.

The order of the fields is that of configs, schemas and tables.
"""

from dataclasses import dataclass

from trainables.compression.registry import EXPLICIT, parse_chain
from trainables.errors import UserError
from trainables.optimizers.registry import DEFAULT, OPTIMIZERS
from trainables.settings import setting

MAX_SEED = 2**32 - 1

NO_EXPLAINERS = "none"

SCRATCH, TEACHER = "scratch", "teacher"
"""Starts that are no names: fresh weights, and the trial's own teacher."""

WEIGHTS = "weights:"
"""Before the file in the start of a teacher that is trained on from somebody else's features."""


@dataclass(frozen=True, kw_only=True)
class Networks:
    """Which student is trained on which data, by whom, how small, and from what on."""

    dataset: str = setting("digits", "data set: see `kdsweep datasets`", role="words")
    teacher: str | None = setting(None, "the teacher's model: see `kdsweep models`", role="words")
    student: str = setting(
        "wrn_16_1", "the student's model, or its family for a factor", role="words"
    )
    compression: str = setting(
        EXPLICIT,
        "how the student becomes small: explicit, depth, width or factor, and steps joined by '+'",
        role="words",
    )
    start: str = setting(
        SCRATCH,
        "where the student's weights begin: scratch, teacher, or see `kdsweep teacher list`",
        role="words",
        implied=(SCRATCH,),
    )
    method: str = setting("student", "terms joined by '+': see `kdsweep methods`")

    def check_start(self) -> None:
        """Refuses a start that there is not, or beside which the compression chooses a network.

        Raises:
            UserError: by its key.
        """
        if self.start == TEACHER and self.teacher is None:
            raise UserError("start: teacher needs one; the trial has no teacher")
        choice = parse_chain(self.compression)[0]
        if self.start != SCRATCH and choice != EXPLICIT:
            raise UserError(
                f"start: {self.start} begins with a network as it is, and '{choice}' of "
                f"compression '{self.compression}' would choose another one; leave it out"
            )


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """How long and by which steps the student learns."""

    epochs: int = setting(30, "passes over the training set", at_least=1)
    batch_size: int = setting(64, "images per step", at_least=1)
    optimizer: str = setting(DEFAULT, "update rule: see `kdsweep optimizers`", choices=OPTIMIZERS)
    lr: float = setting(0.05, "peak learning rate", above=0, search=(0.005, 0.5), log=True)
    momentum: float = setting(0.9, "of SGD", at_least=0, at_most=0.999)
    nesterov: bool = setting(False, "Nesterov's form of the momentum")
    weight_decay: float = setting(5e-4, "L2 penalty", at_least=0, search=(1e-5, 1e-2), log=True)
    schedule: str = setting(
        "cosine", "how the learning rate falls", choices=("cosine", "step", "constant")
    )
    milestones: str = setting(
        "0.625,0.75,0.875", "of schedule step: fractions of the epochs, joined by commas"
    )
    lr_decay: float = setting(0.1, "of schedule step: factor per milestone", above=0, at_most=1)
    warmup_epochs: float = setting(0.0, "linear rise of the learning rate", at_least=0)

    def milestone_epochs(self) -> tuple[float, ...]:
        """The milestones of the step schedule, in epochs.

        Raises:
            UserError: ``milestones`` is no list of fractions in [0, 1].
        """
        try:
            fractions = [float(part) for part in self.milestones.split(",")]
        except ValueError:
            fractions = [-1.0]
        if not all(0 <= fraction <= 1 for fraction in fractions):
            raise UserError(
                f"milestones: expected fractions from 0 to 1 joined by commas, "
                f"got {self.milestones!r}"
            )
        # Rounded, because 0.55 * 100 is 55.00000000000001 and would come a step late.
        return tuple(round(fraction * self.epochs, 6) for fraction in fractions)


@dataclass(frozen=True, kw_only=True)
class Images:
    """Which images are held out or used, and how they are seen."""

    val_fraction: float = setting(
        0.1, "of the training set, held out for selection", at_least=0, at_most=0.9, role="split"
    )
    split_seed: int = setting(0, "fixes the validation split", at_least=0, at_most=MAX_SEED)
    train_fraction: float = setting(
        1.0, "of the training images that are used (stratified)", above=0, at_most=1
    )
    resample: bool = setting(
        False,
        "whether each seed has a train_fraction of its own (Monte-Carlo), or all have the same",
        implied=(False,),
    )
    image_size: int | None = setting(
        None, "pixels per side, for folders of images and VOC", at_least=1
    )
    crop_padding: int | None = setting(
        None, "pixels of zero padding before the crop; none: the data set's own", at_least=0
    )
    resized_crops: int | None = setting(
        None,
        "boxes that are cut and resized in place of padded crops; 0: none; none: the data set's",
        at_least=0,
        at_most=65_536,
        implied=(None,),
    )
    flip: bool | None = setting(None, "horizontal flips; none: the data set's own")


@dataclass(frozen=True, kw_only=True)
class Computing:
    """Where and in which arithmetic it is computed."""

    images: str = setting(
        "auto",
        "where the training images are: on the device, or on the host, which sends their batches",
        choices=("auto", "device", "host"),
        role="place",
    )
    precision: str = setting(
        "auto",
        "of the networks' arithmetic; auto: bf16 for a network that it makes faster here",
        choices=("auto", "fp32", "bf16"),
    )
    teacher_precision: str | None = setting(
        None,
        "of the teacher's; none: as precision",
        choices=("auto", "fp32", "bf16"),
        role="teacher",
    )
    channels_last: bool = setting(
        True,
        "memory layout of the student's feature maps; results differ by rounding alone",
        implied=(True,),
    )
    teacher_cache: str = setting(
        "float16",
        "how the teacher's outputs are kept for the next trials, or off",
        choices=("off", "float16", "bfloat16", "float32"),
        role="teacher",
    )
    compile: bool = setting(
        False, "the student's training passes, once per architecture; on GPUs as CUDA graphs"
    )


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """What is told of the student besides its score."""

    latencies: str = setting(
        "eager",
        "runtimes that the student is timed with, joined by '+'; compiled takes up to 30 s",
        role="measurement",
        implied=("eager",),
    )

    explainers: str = setting(
        NO_EXPLAINERS,
        "what explains the student, joined by '+'; its maps are scored: see `kdsweep explainers`",
        role="measurement",
        implied=(NO_EXPLAINERS,),
    )
    explained_images: int = setting(
        256,
        "images of the validation part, and of the test set, that are explained",
        at_least=2,
        role="measurement",
        implied=(256,),
    )

    @property
    def runtimes(self) -> list[str]:
        """The runtimes that the student is timed with, each once."""
        return list(dict.fromkeys(name.strip() for name in self.latencies.split("+")))
