"""
What C{twistd sockapps} takes, and the service it makes of that, without starting it.
"""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stdout
from pathlib import Path
from unicodedata import east_asian_width

import pytest

from sockapps.listening import AllOrNone, StartError
from sockapps.options import DatagramOptions, StreamOptions
from sockapps.registry import findApps
from sockapps.settings import ServiceSettings, keysOf
from sockapps.tap import WRITTEN, Options, makeService
from tests.dropins import declareApp


@pytest.fixture(autouse=True)
def ownState(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let logins keep their accounts where the test ends with them."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))


def services(*arguments: str) -> list[ServiceSettings]:
    options = Options()
    options.parseOptions(list(arguments))
    settled: list[ServiceSettings] = options["services"]
    return settled


def made(*arguments: str) -> AllOrNone:
    options = Options()
    options.parseOptions(list(arguments))
    return makeService(options)


def refusal(*arguments: str) -> str:
    """Start with these arguments, and return the one line that says why that is impossible."""
    with pytest.raises(StartError) as refused:
        made(*arguments)
    text = str(refused.value)
    assert refused.value.code == text, "the interpreter prints it and exits with 1"
    assert text.startswith("sockapps: ")
    assert "\n" not in text
    return text.removeprefix("sockapps: ")


def listens(*arguments: str) -> list[tuple[str, str, str]]:
    listenings = made(*arguments).listenings
    assert all(each.port is None for each in listenings)
    return [(each.service, each.description, each.framing) for each in listenings]


def test_without_an_option_every_app_listens_where_it_does_by_default() -> None:
    assert listens() == [
        (app.name, app.listens, "datagram" if app.listens.startswith("udp:") else "auto")
        for app in findApps().values()
    ]


def test_services_that_are_named_start_alone_and_in_that_order() -> None:
    assert [each.name for each in services("--service=upper", "-s", "echo")] == ["upper", "echo"]


def test_one_app_can_be_started_twice() -> None:
    named = services("--service=echo:framing=line", "--service=echo", "--listen=tcp:0")
    assert [(each.name, each.app.name) for each in named] == [("echo", "echo"), ("echo-2", "echo")]
    assert [each.stream.framing for each in named] == ["line", "auto"]


def test_a_listen_replaces_the_default_of_the_service_before_it() -> None:
    assert listens(
        "--service=echo:framing=netstring",
        "--listen=tcp:7000:interface=127.0.0.1",
        "-l",
        r"udp:7000:interface=\:\:1",
        "--service=upper",
        "--service=hello:listen=unix\\:/run/hello",
    ) == [
        ("echo", "tcp:7000:interface=127.0.0.1", "netstring"),
        ("echo", r"udp:7000:interface=\:\:1", "datagram"),
        ("upper", "udp:12000:interface=127.0.0.1", "datagram"),
        ("hello", "unix:/run/hello", "auto"),
    ]


def test_a_listen_goes_before_what_the_service_itself_says() -> None:
    (echo,) = services(r"--service=echo:listen=tcp\:1", "--listen=tcp:2", "--listen=tcp:3")
    assert echo.listen == ("tcp:2", "tcp:3")


CONFIG = """
[echo]
framing = "line"
quiet = 2
listen = ["tcp:0:interface=127.0.0.1", "udp:0"]

[loud]
app = "upper-tcp"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "services.toml"
    file.write_text(CONFIG)
    return file


def test_a_file_starts_the_services_it_has_tables_of(config: Path) -> None:
    assert listens(f"--config={config}") == [
        ("echo", "tcp:0:interface=127.0.0.1", "line"),
        ("echo", "udp:0", "datagram"),
        ("loud", "tcp:5000:interface=127.0.0.1", "auto"),
    ]


def test_a_service_chooses_from_the_file_and_changes_what_it_says(config: Path) -> None:
    (echo,) = services("-c", str(config), "--service=echo:framing=raw", "--listen=tcp:1")
    assert (echo.stream.framing, echo.stream.quiet, echo.listen) == ("raw", 2.0, ("tcp:1",))
    (loud,) = services("--service=loud", f"--config={config}")
    assert (loud.name, loud.app.name) == ("loud", "upper-tcp")
    _, second = services(f"--config={config}", "--service=loud", "--service=loud")
    assert (second.name, second.app.name) == ("loud-2", "upper-tcp")
    (hello,) = services(f"--config={config}", "--service=hello")
    assert hello.listen == ("tcp:8898:interface=127.0.0.1",)


def checkers(settings: ServiceSettings) -> list[str]:
    return [type(each).__name__ for each in settings.makeFactory().checkers]  # type: ignore[attr-defined]  # a LoginFactory's


MEMORY = "InMemoryUsernamePasswordDatabaseDontUse"


def test_auth_decides_about_the_service_before_it(tmp_path: Path) -> None:
    first, second = services(
        "--service=login",
        "--auth=memory:alice:s3cret",
        f"--auth=accounts:{tmp_path}/a.db",
        "--service=login",
    )
    assert checkers(first) == [MEMORY, "AccountChecker"]
    assert checkers(second) == ["AccountChecker"]


def test_auth_with_no_service_named_decides_about_login_among_all(tmp_path: Path) -> None:
    everything = services("--auth=memory:alice:s3cret")
    assert [each.name for each in everything] == list(findApps())
    (login,) = [each for each in everything if each.name == "login"]
    assert checkers(login) == [MEMORY]

    config = tmp_path / "l.toml"
    config.write_text('[login]\nauth = ["accounts"]\nlisten = "tcp:1"\n[echo]\n')
    login, _ = services(f"--config={config}", "--auth=memory:alice:s3cret")
    assert (checkers(login), login.listen) == ([MEMORY], ("tcp:1",))


def test_the_process_s_own_tables_are_no_services(tmp_path: Path) -> None:
    config = tmp_path / "l.toml"
    config.write_text("[limits]\nmax_connections = 7\nexempt = []\n")
    options = Options()
    options.parseOptions([f"--config={config}"])
    assert [each.name for each in options["services"]] == list(findApps())
    assert (options["limits"].maxConnections, options["limits"].exempt) == (7, ())
    config.write_text("[admin]\nlisten = 'unix:admin.sock'\n[echo]\ndeny = '10.0.0.0/8,::1'\n")
    made = makeService(parsed(f"--config={config}"))
    assert [each.service for each in made.listenings] == ["echo", "admin"]
    [echo, _] = made.listenings
    assert echo.sessions is not None
    assert echo.sessions.admission.options.deny == ("10.0.0.0/8", "::1")


def parsed(*arguments: str) -> Options:
    options = Options()
    options.parseOptions(list(arguments))
    return options


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("[limits]\nmax_conections = 1", "limits: there is no key 'max_conections'; did you mean"),
        ("[limits]\nmax_connections = -1", "limits.max_connections: must be >= 0, not -1"),
        (
            "[limits]\nexempt = ['10.0.0.1/8']",
            "limits.exempt: 10.0.0.1/8 has host bits; 10",
        ),
        ("[limits]\npenalty_max = 5", "limits.penalty_max: must be more than penalty_threshold"),
        (
            "[limits]\npenalty_overflow = 'x'",
            "limits.penalty_overflow: must be one of permis",
        ),
        ("limits = 1", "limits stands in no service's table"),
        ("[admin]\nlisten = 'tcp:80'", "admin.listen: must be on this machine only"),
        (
            "[admin]\nlisten = 'unix:a'\ntoken_file = '/nowhere'",
            "admin.token_file: /nowhere: No ",
        ),
        ("[echo]\nallow = 'here'", "echo.allow: 'here' is neither an address nor a network"),
        ("[echo]\nmin_source_port = 0", "echo.min_source_port: must be >= 1"),
    ],
)
def test_a_limit_that_cannot_be_is_refused_in_one_line(
    tmp_path: Path, written: str, said: str
) -> None:
    config = tmp_path / "l.toml"
    config.write_text(written)
    line = refusal(f"--config={config}")
    assert line.startswith((f"{config}: {said}", f"{config}:{said}"))


def test_how_the_log_is_written_and_of_what_it_tells_can_be_chosen() -> None:
    def chosen(*arguments: str) -> tuple[str, str]:
        options = parsed(*arguments)
        return options["log-format"], options["log-sessions"]

    assert chosen() == ("human", "unusual")
    assert chosen("--log-format=json") == ("json", "all")
    assert chosen("--log-format=json", "--log-sessions=none") == ("json", "none")
    assert refusal("--log-format=xml") == "--log-format: must be one of human, json, not 'xml'"
    assert refusal("--log-sessions=x").startswith("--log-sessions: must be one of all, unusual, n")


CANNOT = "cannot be used: "


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--service=ecko"], "ecko: there is no app 'ecko'; did you mean 'echo'?"),
        (["--service="], ": there is no app ''"),
        (["--service=echo:frming=line"], "echo: there is no key 'frming'; did you mean 'framing'?"),
        (["--service=echo:framing=x"], "echo.framing: must be one of auto, line, chunk, netstring"),
        (["--service=echo:max_message=x"], "echo.max_message: must be a whole number, not 'x'"),
        (["--service=echo:line"], "--service=echo: what follows echo: is no key=value"),
        (["--listen=tcp:0", "--service=echo"], "--listen: it follows the --service it is for"),
        (["--auth=memory:a:b", "--service=login"], "--auth: it follows the --service it is for"),
        (["--flag"], "option --flag not recognized; see twistd sockapps --help"),
        (["--service"], "option --service requires argument; see twistd sockapps --help"),
        (["echo"], "it takes options only; --service=NAME starts an app; see twistd sockapps"),
        (["--config=/nowhere.toml"], "/nowhere.toml: No such file or directory"),
        (["--config="], ": No such file or directory"),
        (["--help-auth-type=x"], "Invalid auth type: x; see"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused_in_one_line(
    arguments: list[str], said: str
) -> None:
    assert refusal(*arguments).startswith(said)


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("foo:1", "Unknown endpoint type: 'foo'"),
        ("", "Unknown endpoint type: ''"),
        ("tcp", "missing 1 required positional argument: 'port'"),
        ("tcp:x", "'x' is no number"),
        ("tcp:1:interfac=::1", "got an unexpected keyword argument 'interfac'"),
        ("udp:x", "it is written udp:PORT or udp:PORT:interface=ADDRESS, PORT from 0 to 65535"),
        ("udp:65536", "it is written udp:PORT or"),
        ("udp:٣", "it is written udp:PORT or"),
        ("udp:1:2", "it is written udp:PORT or"),
        ("udp:1:interface=a:b", "it is written udp:PORT or"),
        ("udp:1:interface=localhost", "'localhost' is no IP address"),
        ("ssl:1:privateKey=/nowhere.pem", "No such file or directory: /nowhere.pem"),
        ("tls:/nowhere:1", "no certificate: there is no .pem file in the folder '/nowhere'"),
        ("tls:path=/nowhere:port=1", "no certificate: there is no .pem file in the folder '/now"),
        ("tls", "missing 1 required positional argument: 'path'"),
        ("systemd:domain=INET:index=0", "no such index"),
        ("systemd:domain=INET:name=x", "there is no 'x'"),
        ("systemd:domain=INET", "Specify exactly one of descriptor index or name"),
    ],
)
def test_an_endpoint_that_cannot_be_used_is_refused_in_one_line(endpoint: str, said: str) -> None:
    text = refusal("--service=echo", f"--listen={endpoint}")
    assert text.startswith(f"echo.listen: {endpoint!r} {CANNOT}")
    assert said in text
    assert text.endswith("; twistd sockapps --help shows the endpoints")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[echo\n", "is no TOML: Expected ']' at the end of a table declaration (at line 1, "),
        ("[ecko]", "ecko: there is no app 'ecko'; did you mean 'echo'?"),
        ("[mine]\napp = 1", "mine: there is no app 1; there are "),
        ("[mine]\napp = 'ecko'", "mine: there is no app 'ecko'; did you mean 'echo'?"),
        ("[echo]\nquiet = 'soon'", "echo.quiet: must be a number, not 'soon'"),
        ("[echo]\nfrming = 'line'", "echo: there is no key 'frming'; did you mean 'framing'?"),
        ("[echo]\nlisten = 7000", "echo.listen: must be an endpoint or a list of them, not 7000"),
        ("[echo]\nlisten = 'foo:1'", "echo.listen: 'foo:1' cannot be used: Unknown endpoint type"),
        ("[login]\nauth = 5", "login.auth: must be a list of texts"),
        ("[login]\nauth = 's3cret'", "login: there is no such checker; there are accounts"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_to_be_there(
    tmp_path: Path, content: str, said: str
) -> None:
    file = tmp_path / "services.toml"
    file.write_text(content)
    assert refusal(f"--config={file}").startswith(f"{file}: {said}")


def test_what_a_chosen_service_takes_from_the_file_is_said_to_be_there(tmp_path: Path) -> None:
    file = tmp_path / "services.toml"
    file.write_text("[echo]\nquiet = 'soon'\n")
    chosen = [f"--config={file}", "--service=echo:framing=x"]
    assert refusal(*chosen[:1], "--service=echo").startswith(f"{file}: echo.quiet: must be")
    assert refusal(*chosen[:1], "--service=echo:quiet=0").startswith("echo.quiet: must be > 0")
    file.write_text("[echo]\nquiet = 1\n")
    assert refusal(*chosen).startswith("echo.framing: must be one of")


def test_auth_needs_a_login_in_the_file(config: Path) -> None:
    assert refusal(f"--config={config}", "--auth=memory:alice:s3cret") == (
        f"--auth: {config} has no service login; name one by --service"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--service=login", "--auth=memory:s3cret"],
        ["--service=login", "--auth=mmory:alice:s3cret"],
        ["--service=login", "--auth=memory:alice:s3cret", "--auth=nonsense"],
        ["--service=login", "--auth", "memory", "alice", "s3cret"],
        ["--service=login", "--auth=anonymous:s3cret"],
        ["--service=login:auth=memory:alice:s3cret"],
        ["--service=login:auth=memory:s3cret"],
        [r"--service=login:auth=memory\:alice\:b,s3cret"],
        ["--service=login:auht=memory\\:alice\\:s3cret"],
        ["--service=echo", "--auth=memory:alice:s3cret"],
        ["--auth=memory:alice:s3cret", "--service=login"],
        ["--ath=memory:alice:s3cret"],
        ["--auth=memory:alice:s3cret", "--service=no"],
        ["memory:alice:s3cret"],
    ],
)
def test_a_secret_is_never_shown(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert "s3cret" not in refusal(*arguments)
    captured = capfd.readouterr()
    assert "s3cret" not in captured.out + captured.err


def shownBy(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        Options().parseOptions(list(arguments))
    assert end.value.code == 0
    return capsys.readouterr().out


def test_the_help_shows_everything_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    text = shownBy("--help", capsys=capsys)
    for app in findApps().values():
        assert f"\n  {app.name} " in text
        assert app.listens in text
        assert app.summary in text
        assert all(f"      {key}=" in text for key in keysOf(app.loadFactory()))
    for owner in (StreamOptions, DatagramOptions):
        assert all(f"      {key}=" in text for key in keysOf(owner))
    for kind in ("tcp", "udp", "unix", "tls", "ssl", "systemd"):
        assert f"\n  {kind}:" in text
    assert "twistd -n sockapps --service=echo --listen=tcp:7000 --listen=udp:7000" in text


def test_the_help_shows_every_option_that_there_is() -> None:
    assert {option.removesuffix("=") for option in Options().longOpt} == set(WRITTEN)
    text = str(Options())
    assert all(f"  {written}" in text for written in WRITTEN.values())


def test_the_help_shows_defaults_as_they_would_be_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = shownBy("--help", capsys=capsys)
    for written in ("rules=sb=alexsb", "timeout=2 ", "max_message=16384", "auth=accounts", "root="):
        assert f"      {written}" in text


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        (
            "nowhere.Factory",
            "              (it cannot be loaded: nowhere.Factory: ObjectNotFound:",
        ),
        (
            "tests.test_settings.NeedyFactory",
            "      file=…                a file that is there\n",
        ),
    ],
)
def test_the_help_shows_every_app_that_there_is(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    factory: str,
    said: str,
) -> None:
    declareApp(monkeypatch, tmp_path, factory)
    text = shownBy("--help", capsys=capsys)
    assert "\n  extra       tcp:0:interface=127.0.0.1\n              one more\n" in text
    assert f"\n{said}" in text
    assert "\n  upper-tcp " in text


def test_the_help_fits_a_small_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    for line in shownBy("--help", capsys=capsys).splitlines():
        assert sum(2 if east_asian_width(each) in "WF" else 1 for each in line) < 80, line
        assert line == line.rstrip()


def test_the_help_can_be_read_in_every_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii"))
    with pytest.raises(SystemExit):
        Options().parseOptions(["--help"])
    sys.stdout.flush()
    assert rb"accepted=\u767b" in written.getvalue()
    with pytest.raises(SystemExit), redirect_stdout(io.StringIO()) as text:
        Options().parseOptions(["--help"])
    assert "accepted=登录成功!" in text.getvalue()


def test_the_help_of_auth_shows_our_accounts_too(capsys: pytest.CaptureFixture[str]) -> None:
    Options.authOutput = sys.stdout
    assert "accounts" in shownBy("--help-auth", capsys=capsys)
    assert "STATE_DIRECTORY" in shownBy("--help-auth-type=accounts", capsys=capsys)


def test_the_version_is_ours_and_twisteds(capsys: pytest.CaptureFixture[str]) -> None:
    assert shownBy("--version", capsys=capsys).startswith("sockapps 0.1")
