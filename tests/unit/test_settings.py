"""Settings come from four sources, are checked all at once, and never show a secret."""

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
from msgspec import Meta

from common.errors import SettingsError
from common.settings import SECRET, BrokerSettings, ClientSettings, CommonSettings, load, redact_url, redacted
from common.sources import ELSEWHERE
from common.urls import check_amqp_url


class Example(CommonSettings, frozen=True, kw_only=True):
    slots: Annotated[int, Meta(ge=1)] = 50
    queues: tuple[str, ...] = ("default",)
    token: Annotated[str, SECRET] = ""


@pytest.fixture(autouse=True)
def _empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(environ: dict[str, str] | None = None, file: str | None = None, **overrides: Any) -> Example:
    if file is not None:
        Path("warren.toml").write_text(file)
    return load(Example, table="worker", environ=environ or {}, overrides=overrides)


def faults(environ: dict[str, str] | None = None, file: str | None = None, **overrides: Any) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        read(environ, file, **overrides)
    return caught.value.faults


def test_without_any_source_the_defaults_hold() -> None:
    assert read() == Example()


def test_each_source_wins_over_the_one_before() -> None:
    file = "heartbeat = 20\n[worker]\nslots = 2\n"
    assert read(file=file).slots == 2
    assert read({"WARREN_SLOTS": "3"}, file).slots == 3
    assert read({"WARREN_SLOTS": "3"}, file, slots=4).slots == 4
    assert read({"WARREN_SLOTS": "3"}, file, slots=None).slots == 3
    assert read(file=file).heartbeat == 20


def test_the_programs_table_wins_over_the_top_level_and_other_tables_do_not_count() -> None:
    assert read(file="heartbeat = 20\n[worker]\nheartbeat = 30\n[scheduler]\nwindow_limit = 1\n").heartbeat == 30


def test_the_file_is_the_one_given_then_the_variable_then_the_default() -> None:
    for number, name in enumerate(("warren.toml", "named.toml", "given.toml"), 11):
        Path(name).write_text(f"heartbeat = {number}")
    environ = {"WARREN_CONFIG": "named.toml"}
    assert read().heartbeat == 11
    assert read(environ).heartbeat == 12
    assert load(Example, table="worker", environ=environ, file=Path("given.toml")).heartbeat == 13


def test_text_of_the_environment_becomes_the_fields_type() -> None:
    settings = read(
        {
            "WARREN_QUEUES": "email, default,,math",
            "WARREN_HTTP": "off",
            "WARREN_ALLOW_PLAINTEXT": "true",
            "WARREN_LOG_LEVEL": "DEBUG",
            "WARREN_PUBLISH_TIMEOUT": "2.5",
            "WARREN_NAMESPACE": "",
        }
    )
    assert settings.queues == ("email", "default", "math")
    assert (settings.http, settings.allow_plaintext, settings.log_level) == (False, True, "debug")
    assert (settings.publish_timeout, settings.namespace) == (2.5, "warren")


def test_every_fault_is_reported_at_once_with_its_source() -> None:
    found = faults({"WARREN_HEARTBEAT": "1", "WARREN_SLOTS": "many"}, "namespace = 'a.b'\ncolour = 1", http_port=70_000)
    text = "\n".join(found)
    assert len(found) == 5
    assert "heartbeat '1' (from the environment variable WARREN_HEARTBEAT)" in text
    assert "slots 'many' (from the environment variable WARREN_SLOTS)" in text
    assert "namespace 'a.b' (from warren.toml)" in text
    assert "http_port 70000 (from the command line)" in text
    assert "unknown key 'colour'" in text


@pytest.mark.parametrize(
    ("environ", "file", "expected"),
    [
        (
            {"WARREN_HEARTBEET": "9"},
            None,
            "unknown environment variable WARREN_HEARTBEET; did you mean WARREN_HEARTBEAT?",
        ),
        ({"WARREN_AMQP_URI": "x"}, None, "did you mean WARREN_AMQP_URL?"),
        ({}, "hearbeat = 9", "unknown key 'hearbeat'; did you mean heartbeat?"),
        ({}, "[worker]\nslot = 9", "unknown key 'slot' in [worker]; did you mean slots?"),
        ({}, "slots = 9", "unknown key 'slots'; it belongs in the table [worker]"),
        ({}, "[workers]\nslots = 9", "unknown key 'workers'; did you mean worker?"),
        ({}, "worker = 1", "unknown key 'worker'"),
        ({}, "= 1", "not valid TOML"),
        ({"WARREN_CONFIG": "absent.toml"}, None, "cannot read absent.toml"),
        (
            {"WARREN_TLS_CA_FILE": "absent.pem"},
            None,
            "tls_ca_file 'absent.pem' is not a file that can be read (from the environment",
        ),
        ({"WARREN_TLS_CA_FILE": "x" * 5000}, None, "is not a file that can be read"),
        ({"WARREN_HTTP": "maybe"}, None, "http 'maybe'"),
        ({"WARREN_LOG_LEVEL": "loud"}, None, "log_level 'loud'"),
    ],
)
def test_a_mistake_gets_a_hint(environ: dict[str, str], file: str | None, expected: str) -> None:
    (fault,) = faults(environ, file)
    assert expected in fault


def test_an_unknown_override_is_a_fault() -> None:
    (fault,) = faults(slot=3)
    assert fault == "there is no setting 'slot'; did you mean slots?"


def test_variables_of_other_programs_and_of_kubernetes_are_no_faults() -> None:
    others = {f"WARREN_{name.upper()}": "1" for name in ELSEWHERE - {"config"}}
    kubernetes = {
        "WARREN_PORT": "tcp://10.0.0.1:9464",
        "WARREN_SERVICE_HOST": "10.0.0.1",
        "WARREN_SERVICE_PORT_HTTP": "9464",
        "WARREN_PORT_9464_TCP_ADDR": "10.0.0.1",
    }
    settings = load(
        ClientSettings,
        table="client",
        environ=others | kubernetes | {"WARREN_DATABASE_URL_FILE": "x", "WARREN_TEST_AMQP_URL": "y", "PATH": "z"},
    )
    assert settings == ClientSettings()


def test_the_list_of_other_programs_fields_is_complete_and_has_no_other() -> None:
    found = {"config", "failpoints", "failpoints_once"}
    for module in ("scheduler_service.settings", "worker_service.settings"):
        classes = [
            value
            for value in vars(importlib.import_module(module)).values()
            if isinstance(value, type) and issubclass(value, CommonSettings) and value is not CommonSettings
        ]
        assert classes
        for cls in classes:
            found |= set(cls.__struct_fields__) - set(CommonSettings.__struct_fields__)
    assert found == ELSEWHERE


class TestSecrets:
    URL = "amqps://warren:s3cret@broker.example/warren"

    def test_a_secret_can_be_in_a_file(self) -> None:
        Path("url").write_text(self.URL + "\n")
        assert read({"WARREN_AMQP_URL_FILE": "url"}).amqp_url == self.URL

    def test_both_forms_at_once_are_refused(self) -> None:
        (fault,) = faults({"WARREN_AMQP_URL_FILE": "url", "WARREN_AMQP_URL": self.URL})
        assert fault == "WARREN_AMQP_URL and WARREN_AMQP_URL_FILE are both set; keep one"

    def test_a_file_that_is_not_there_is_a_fault(self) -> None:
        (fault,) = faults({"WARREN_AMQP_URL_FILE": "absent"})
        assert "cannot read absent (named by WARREN_AMQP_URL_FILE)" in fault

    def test_what_is_no_secret_has_no_file_form(self) -> None:
        (fault,) = faults({"WARREN_SLOTS_FILE": "x"})
        assert "unknown environment variable WARREN_SLOTS_FILE" in fault

    def test_neither_repr_nor_redacted_show_one(self) -> None:
        settings = Example(amqp_url=self.URL, token="t0ken")
        for text in (repr(settings), str(settings), str(redacted(settings))):
            assert "s3cret" not in text
            assert "t0ken" not in text
        assert redacted(settings)["amqp_url"] == "amqps://warren:***@broker.example/warren"
        assert redacted(settings)["slots"] == 50

    def test_no_fault_shows_one(self) -> None:
        text = "\n".join(
            [
                *faults({"WARREN_AMQP_URL": "http://warren:s3cret@broker.example/a/b?no_verify_ssl=1#x"}),
                *faults({"WARREN_AMQP_URL": "amqp://warren:s3cret@broker.example:port/"}),
                *faults({"WARREN_AMQP_URL": "amqp://warren:s3cret/]@[broker/"}),
                *faults(token=["s3cret"]),
            ]
        )
        assert "s3cret" not in text


class TestBrokersAddress:
    @pytest.mark.parametrize("name", ["AMQP_URL", "RABBITMQ_URL", "CLOUDAMQP_URL"])
    def test_the_names_of_hosting_platforms_count_when_ours_is_absent(self, name: str) -> None:
        other = "amqp://localhost/other"
        assert read({name: other}).amqp_url == other
        assert read({name: other, "WARREN_AMQP_URL": "amqp://localhost/ours"}).amqp_url == "amqp://localhost/ours"

    @pytest.mark.parametrize(
        "url",
        [
            "amqp://guest:guest@localhost:5672/",
            "amqp://127.0.0.9",
            "amqp://[::1]:5672/%2Fa",
            "amqp://warren.localhost//",
            "amqps://u:p%40ss@broker.example:5671/warren?cafile=/ca.pem",
        ],
    )
    def test_good(self, url: str) -> None:
        assert check_amqp_url(url, allow_plaintext=False) == []

    @pytest.mark.parametrize(
        ("url", "fault"),
        [
            ("http://localhost", "has to begin with amqp:// or amqps://"),
            ("localhost:5672", "has to begin with"),
            ("amqp://", "has no host"),
            ("amqp://guest:guest@local host:5672/", "neither an IP address nor the name"),
            ("amqp://localhost:0/", "port"),
            ("amqp://localhost:99999/", "not a valid URL"),
            ("amqp://localhost/a/b", "%2F"),
            ("amqp://u:p#w@localhost/", "special characters"),
            ("amqp://localhost/#w", "%23"),
            ("amqps://broker.example/?no_verify_ssl=1", "option 'no_verify_ssl'"),
            ("amqps://broker.example/?heartbeat=0", "option 'heartbeat'"),
            ("amqp://broker.example/", "plain text"),
            ("amqp://10.0.0.1/", "plain text"),
            ("amqp://localhost.example.com/", "plain text"),
            ("amqp://127.0.0.1.example.com/", "plain text"),
        ],
    )
    def test_bad(self, url: str, fault: str) -> None:
        assert any(fault in each for each in check_amqp_url(url, allow_plaintext=False))

    def test_plain_text_elsewhere_has_to_be_asked_for(self) -> None:
        environ = {"WARREN_AMQP_URL": "amqp://u:p@broker.example/"}
        (fault,) = faults(environ)
        assert "plain text" in fault
        assert fault.endswith("(from the environment variable WARREN_AMQP_URL)")
        assert read(environ, allow_plaintext=True).allow_plaintext

    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            ("amqp://u:p@h/", "amqp://u:***@h/"),
            ("amqp://u:p@ss/w:rd@h/v", "amqp://u:***@h/v"),
            ("amqp://h/v", "amqp://h/v"),
            ("postgresql://u@h/d?user=a&password=p&sslmode=x", "postgresql://u@h/d?user=a&password=***&sslmode=x"),
            ("sqlite:///warren.db", "sqlite:///warren.db"),
            ("broken amqp://u:p@h", "broken amqp://u:***@h"),
        ],
    )
    def test_redaction(self, url: str, shown: str) -> None:
        assert redact_url(url) == shown


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        BrokerSettings().heartbeat = 20  # type: ignore[misc]


@pytest.mark.parametrize("command", [("scheduler",), ("worker", "examples.tasks")], ids=lambda command: str(command[0]))
def test_a_service_of_its_own_refuses_a_broker_in_memory(command: tuple[str, ...], tmp_path: Path) -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("warren"), *command],
        env={"WARREN_AMQP_URL": "memory://guest@here", "WARREN_HTTP_PORT": "0"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 2
    assert "amqp_url 'memory://guest@here' is for tests within one process (common.testing)" in done.stderr
    assert "(from the environment variable WARREN_AMQP_URL)" in done.stderr
    assert list(tmp_path.iterdir()) == []
