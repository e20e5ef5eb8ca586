"""TrialConfig: read, refused, written, hashed."""

import json

import pytest

from trainables.config import TrialConfig, settings_with
from trainables.errors import UserError
from trainables.experiment import config_key, decisive
from trainables.settings import settings_of

KD = {"method": "kd", "teacher": "wrn_16_2"}


def make(**values: object) -> TrialConfig:
    return TrialConfig.from_mapping(KD | values)


def key(config: TrialConfig, *, student: str = "wrn_16_1", **changes: str | None) -> str:
    facts = {"data_fingerprint": "d" * 64, "teacher_fingerprint": "t" * 64} | changes
    return config_key(config, student=student, **facts)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"method": "at+kd", "teacher": "t", "temperature": 3, "at.form": "mean"},
        {"factor": 4, "student": "wrn", "teacher": "wrn_16_2", "flip": True, "crop_padding": 0},
        {"depth": 5, "student": "mobilenetv2", "lr": "1e-3", "optimizer": "adamw"},
    ],
)
def test_round_trip_through_json(values: dict[str, object]) -> None:
    config = TrialConfig.from_mapping(values)
    text = config.to_json()
    again = TrialConfig.from_mapping(json.loads(text))
    assert again == config
    assert again.to_json() == text
    assert " " not in text
    assert list(json.loads(text)) == sorted(json.loads(text))


def test_defaults_of_the_method_are_part_of_the_record() -> None:
    assert make().to_dict()["kd.temperature"] == 4.0
    assert make(alpha=0.5).to_dict()["kd.alpha"] == 0.5


def test_replace_checks_anew() -> None:
    assert make().replace(lr=0.3).lr == 0.3
    with pytest.raises(UserError, match="epochs: expected"):
        make().replace(epochs=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 3}, "unknown key 'epoch'; did you mean epochs"),
        ({"temprature": 3}, "unknown key 'temprature'; did you mean .*temperature"),
        ({"at.beta": 3}, "unknown key 'at.beta'"),
        ({"kd.beta": 3}, "unknown key 'kd.beta'"),
        ({"method": "kq"}, "unknown method 'kq'"),
        ({"method": True}, "method: expected a name, got True"),
        ({"teacher": None}, "teacher: method 'kd' needs one"),
        ({"factor": 2, "width": 0.5}, "width and factor are both given"),
        ({"factor": 2, "compression": "width", "width": 0.5}, "factor: has no effect"),
        ({"factor": 2, "compression": "explicit"}, "factor: has no effect with compression expl"),
        ({"compression": "factor"}, "factor: compression 'factor' needs its value"),
        (
            {"compression": "zip"},
            "unknown compression 'zip'; known: depth, explicit",
        ),
        ({"milestones": "0.5,1.5"}, "milestones: expected fractions from 0 to 1"),
        ({"milestones": "half"}, "milestones: expected fractions from 0 to 1"),
        ({"milestones": "0.5,"}, "milestones: expected fractions from 0 to 1"),
        ({"kd.alpha": 2}, "kd.alpha: expected a number from 0 to 1, got 2"),
        ({"seed": 2**32}, "seed: expected a whole number from 0 to"),
    ],
)
def test_mistakes_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**values)


def _outside() -> list[tuple[str, object]]:
    """A value outside every bound of every field."""
    cases: list[tuple[str, object]] = []
    for name, found in settings_of(TrialConfig).items():
        if found.above is not None:
            cases.append((name, found.above))
        if found.at_least is not None:
            cases.append((name, found.at_least - 1))
        if found.at_most is not None:
            cases.append((name, found.at_most + 1))
        if found.choices:
            cases.append((name, "no-such-choice"))
        if found.kind in (int, float):
            cases.append((name, "many"))
        if found.kind is bool:
            cases.append((name, "yes"))
    return cases


@pytest.mark.parametrize(("name", "value"), _outside())
def test_every_bound_is_kept_and_names_its_key(name: str, value: object) -> None:
    with pytest.raises(UserError, match=rf"^{name}: expected .*, got "):
        make(**{name: value})


def test_every_field_is_documented_and_has_a_valid_default() -> None:
    for name, found in settings_of(TrialConfig).items():
        assert len(found.help) > 3, name
        assert found.check(name, found.default) == found.default
        if found.search is not None:
            for end in found.search:
                assert found.check(name, end) == end


class TestConfigKey:
    def test_literal(self) -> None:
        """A change here orphans every stored result: it must be meant."""
        assert key(make(temperature=4, lr=0.1)) == "2d17998bfa036ac8"

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ({"method": "student", "teacher": None}, "d4076ca797cc13d9"),
            ({"method": "student", "teacher_cache": "off"}, "d4076ca797cc13d9"),
            ({}, "1bb8ddbdb90d0970"),
            ({"channels_last": True}, "1bb8ddbdb90d0970"),
            ({"channels_last": False}, "da2e68aa658fcfff"),
            ({"method": "dkd"}, "c4bdbae7b9f8c92a"),
            ({"method": "reviewkd"}, "c5f52239bff44ac3"),
            ({"method": "kd+dkd", "dkd.warmup_fraction": 0.1}, "0eeb00655e84b43c"),
            ({"method": "dml", "teacher": None, "peers": 2}, "77e81989006ef107"),
            (
                {"method": "kd+at", "factor": 4, "student": "wrn", "stage": "confirm"}
                | {"val_fraction": 0, "seed": 1000, "view_seed": 1000, "images": "host"},
                "2de4f88aee7ae3fb",
            ),
            (
                {"method": "kd+mixup", "width": 0.5, "teacher_cache": "float32", "compile": True},
                "519be7a533d1f514",
            ),
            ({"method": "ttm+crd", "train_fraction": 0.1, "split_seed": 3}, "e2214aeceedcf126"),
        ],
    )
    def test_recorded(self, values: dict, expected: str) -> None:
        """Keys as they were when settings got their roles."""
        assert key(make(**values)) == expected

    def test_a_setting_that_terms_got_later_changes_no_key(self) -> None:
        both = make(method="dkd+reviewkd")
        assert key(both) == "d282083c0c906f0a"  # from before there was a warmup_fraction
        for name in ("dkd.warmup_fraction", "reviewkd.warmup_fraction"):
            assert key(both.replace(**{name: 0.1})) != key(both)

    @pytest.mark.parametrize(
        ("words", "others"),
        [
            ({"factor": 4, "student": "wrn"}, {"student": "wrn_16_1"}),
            ({"width": 0.5, "student": "wrn_16_2"}, {"student": "wrn_16_1"}),
            ({"method": "at+kd"}, {"method": "kd+at"}),
            ({"temperature": 4}, {"kd.temperature": 4.0}),
            ({}, {"kd.alpha": 0.9}),
            ({"lr": "5e-2"}, {"lr": 0.05}),
            ({"teacher": "wrn_16_2"}, {"teacher": "the_same_weights_by_another_name"}),
            ({"stage": "confirm"}, {"stage": "search"}),
            ({"images": "host"}, {"images": "device"}),
        ],
    )
    def test_equal_experiments(self, words: dict, others: dict) -> None:
        assert key(make(**words)) == key(make(**others))

    @pytest.mark.parametrize(
        "change",
        [
            {"epochs": 31},
            {"batch_size": 32},
            {"optimizer": "adam"},
            {"lr": 0.051},
            {"momentum": 0.8},
            {"nesterov": True},
            {"weight_decay": 1e-4},
            {"schedule": "constant"},
            {"milestones": "0.5"},
            {"lr_decay": 0.2},
            {"warmup_epochs": 1},
            {"val_fraction": 0.2},
            {"split_seed": 1},
            {"train_fraction": 0.5},
            {"resample": True},
            {"image_size": 64},
            {"crop_padding": 2},
            {"resized_crops": 64},
            {"flip": True},
            {"precision": "fp32"},
            {"channels_last": False},
            {"teacher_precision": "fp32"},
            {"teacher_cache": "off"},
            {"compile": True},
            {"seed": 1},
            {"view_seed": 1},
            {"kd.temperature": 4.5},
            {"kd.alpha": 0.8},
            {"method": "kd+at"},
            {"method": "dist"},
        ],
    )
    def test_everything_decisive_changes_it(self, change: dict) -> None:
        assert key(make(**change)) != key(make())

    def test_every_field_was_thought_of(self) -> None:
        """A new field must be put on one side: decisive above, or other words for the same."""
        words = {*settings_with("words", "stage", "place", "measurement")}
        marks = type(self).test_everything_decisive_changes_it.pytestmark
        (decisive,) = [mark.args[1] for mark in marks]
        tested = {name for change in decisive for name in change if "." not in name}
        assert tested | words == set(settings_of(TrialConfig))

    def test_network_and_data_count(self) -> None:
        base = key(make())
        assert key(make(), student="wrn_16_2") != base
        assert key(make(), data_fingerprint="e" * 64) != base

    @pytest.mark.parametrize("change", [{"teacher_cache": "off"}, {"teacher_precision": "bf16"}])
    def test_how_the_teacher_computes_counts_where_it_is_read(self, change: dict) -> None:
        assert key(make(method="student", **change)) == key(make(method="student"))

    def test_the_teacher_counts_where_it_is_read(self) -> None:
        assert key(make(), teacher_fingerprint="u" * 64) != key(make())
        plain = make(method="student")
        assert key(plain, teacher_fingerprint="u" * 64) == key(plain)
        assert key(plain, teacher_fingerprint=None) == key(plain)

    @pytest.mark.parametrize("method", ["dml", "mixup", "dml+mixup"])
    def test_no_teacher_counts_for_a_method_without_one(self, method: str) -> None:
        config = TrialConfig.from_mapping({"method": method})
        assert config.teacher is None
        assert TrialConfig.from_mapping(config.to_dict()) == config
        taught = config.replace(teacher="wrn_16_2")
        assert key(taught) == key(config, teacher_fingerprint=None)
        joined = config.replace(method=f"kd+{method}", teacher="wrn_16_2")
        assert key(joined) != key(joined, teacher_fingerprint="u" * 64)
        with pytest.raises(UserError, match=r"teacher: method .* needs one"):
            joined.replace(teacher=None)

    @pytest.mark.parametrize(
        ("method", "changes"),
        [
            ("dml", {"peers": 2}),
            ("dml", {"peer": "resnet8"}),
            ("dml", {"update": "together"}),
            ("mixup", {"mixup.alpha": 0.2}),
            ("kd+mixup", {"mixup.teacher_mix": "logits"}),
        ],
    )
    def test_settings_of_peers_and_mixtures_count(
        self, method: str, changes: dict[str, object]
    ) -> None:
        values = {"method": method, "teacher": "wrn_16_2"}
        plain, changed = (TrialConfig.from_mapping(values | more) for more in ({}, changes))
        assert key(plain) != key(changed)


class TestDecisive:
    def test_roles(self) -> None:
        assert settings_with("seed") == ["seed", "view_seed"]
        assert settings_with("split") == ["val_fraction"]
        assert settings_with("stage", "place") == ["images", "stage"]
        assert settings_with("teacher") == ["teacher_precision", "teacher_cache"]
        words = ("dataset", "teacher", "student", "compression", "start")
        assert settings_with("words") == [*words]

    def test_repeats_have_it_in_common_and_their_confirmation(self) -> None:
        first = make(seed=1, view_seed=1, images="host").to_dict()
        second = make(seed=2, view_seed=3).to_dict()
        confirmed = make(seed=1000, view_seed=1000, stage="confirm", val_fraction=0).to_dict()
        assert decisive(first) != decisive(second)
        assert decisive(first, "seed") == decisive(second, "seed")
        assert decisive(first, "seed") != decisive(confirmed, "seed")
        assert decisive(first, "seed", "split") == decisive(confirmed, "seed", "split")
        for change in ({"split_seed": 1}, {"factor": 2, "student": "wrn"}, {"alpha": 0.5}):
            other = make(**change).to_dict()
            assert decisive(first, "seed", "split") != decisive(other, "seed", "split")

    @pytest.mark.parametrize("words", [{}, {"factor": 2, "student": "wrn"}])
    def test_a_row_of_before_there_were_chains_is_a_repeat(self, words: dict) -> None:
        """It holds a null for every amount that was not asked for."""
        now = make(**words).to_dict()
        before = dict.fromkeys(("depth", "width", "factor")) | now
        del before["start"]  # which came later
        assert before != now
        assert decisive(before, "seed") == decisive(now, "seed")
        assert TrialConfig.from_mapping(before) == make(**words)

    def test_what_is_not_known_decides(self) -> None:
        """Rows of another version, and of terms of a package that is not installed."""
        row = {"method": "kd+theirs", "theirs.seed": 1, "lr": 0.1, "seed": 3, "gone": "x"}
        assert decisive(row, "seed", "split") == {
            "method": "kd+theirs",
            "theirs.seed": 1,
            "lr": 0.1,
            "gone": "x",
        }
