"""A study's teachers: how each is trained, or where it is."""

from search_spaces.spec import Study
from search_spaces.teacher import TeacherSpec
from trainables.errors import UserError
from trainables.models.registry import canonical_name
from trainables.recipes import Filed, Recipe, recipe
from trainables.teachers.teacher import find_teacher


def teachers_of(study: Study, results: str, data_dir: str | None) -> dict[str, Recipe | Filed]:
    """The teachers of a study's trials by the names that configs have for them.

    Args:
        study: with one teacher, or with pairs.
        results: where imported teachers are.
        data_dir: as ``--data``.

    Raises:
        UserError: an imported teacher is missing, or an unknown network.
    """

    def resolve(spec: TeacherSpec, key: str) -> Recipe | Filed:
        config = study.teacher_config(spec, key)
        if config is None:
            return _filed(results, str(spec.name), key)
        upper = resolve(spec.teacher, f"{key}.teacher") if spec.teacher else None
        try:
            canonical_name(config.student)
        except UserError as error:
            raise UserError(f"{key}.model: {error}") from error
        return recipe(config, data_dir, upper)

    return {spec.label: resolve(spec, key) for key, spec in study.teachers().items()}


def _filed(results: str, name: str, key: str) -> Filed:
    card = find_teacher(results, name)
    if card is None:
        raise UserError(
            f"{key}.name: there is no teacher '{name}' in {results}; "
            f"import it with `kdsweep teacher import MODEL FILE --name {name}`"
        )
    return Filed(name, card)
