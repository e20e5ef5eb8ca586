"""The card of a student that a trial has trained."""

from trainables.compression.measure import count_params, macs_of
from trainables.models.weights import Card
from trainables.tasks.registry import TASKS
from trainables.tasks.task import Score
from trainables.teachers.start import Start
from trainables.training import Training


def card_of_student(training: Training, name: str, tested: Score, start: Start | None) -> Card:
    """What the student's file says of it.

    Args:
        training: after its last epoch.
        name: of the trial.
        tested: the student's scores on the test set.
        start: what it began with; None for fresh weights.
    """
    dataset, student = training.dataset, training.student
    mean, std = training.learner.normalisation
    return Card(
        name=name,
        model=student.blueprint.model,
        edits=student.blueprint.edits,
        dataset=training.config.dataset,
        data_fingerprint=dataset.fingerprint,
        classes=dataset.num_classes,
        class_names=dataset.classes,
        image_shape=dataset.image_shape,
        mean=mean,
        std=std,
        normalisation=start.card.normalisation if start else "dataset",
        test_acc=tested.acc,
        test_score=tested.headline,
        task=dataset.task,
        metric=TASKS[dataset.task].headline.name,
        params=count_params(student),
        macs=macs_of(student.blueprint, dataset.num_classes, dataset.image_shape),
        origin=training.config.to_json(),
    )
