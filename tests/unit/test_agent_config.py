"""The agent's configuration: what is read, and what a technician is told of faults."""

from __future__ import annotations

from datetime import UTC
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from p2p.config import AgentConfig, Endpoint, parse_config, read_config
from p2p.config.model import CarrierConfig
from p2p.errors import ConfigError
from p2p.swarm.allowance import DailyWindow
from p2p.swarm.cost import Weights

HERE = Path("/etc/slipstream")
SMALL = """\
[device]
id = "dev-1"
product = "gateway"
hardware = "rev1"
state_dir = "/var/lib/slipstream"

[coordinator]
url = "https://updates.example.org/"

[slots.rootfs]
a = "/dev/mmcblk0p2"
b = "/dev/mmcblk0p3"
"""


def parse(text: str) -> AgentConfig:
    return parse_config(text.encode(), source="agent.toml", directory=HERE)


def faults(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert caught.value.exit_code == 2
    return [line.strip() for line in caught.value.message.splitlines()[1:]]


def test_the_smallest_configuration_gets_sound_defaults() -> None:
    config = parse(SMALL)
    assert config.device.id == "dev-1"
    assert config.coordinator.url == config.origin.url == "https://updates.example.org"
    assert config.trust.root == Path("/var/lib/slipstream/root.json")
    assert config.network.listen == Endpoint("0.0.0.0", 7470)
    assert config.discovery.roster and config.discovery.mdns
    assert config.slots["rootfs"].places == {"a": "/dev/mmcblk0p2", "b": "/dev/mmcblk0p3"}
    assert config.boot.environment == Path("/var/lib/slipstream/boot.env")
    assert config.boot.reboot_command is None
    assert config.health.command is None
    assert config.budgets.wan_rate_max is None
    assert not config.budgets.wan_gives_way
    assert not config.budgets.wan_metered and not config.budgets.wan_roaming
    assert config.budgets.conditions is None
    assert config.swarm.serve_s is None
    assert config.swarm.wan
    assert config.fleet_ca_path == Path("/var/lib/slipstream/fleet-ca.pem")


def test_the_example_in_deploy_is_valid_and_names_every_key() -> None:
    path = Path(__file__).parents[2] / "deploy" / "agent.toml"
    example = read_config(path)
    assert example.device.product
    bare = "\n".join(line.removeprefix("# ") for line in path.read_text().splitlines() if "=" in line)
    with pytest.raises(ConfigError) as caught:
        parse("\n".join(f"[{t}]\n_ = 1" for t in TABLES if t != "slots"))
    for line in caught.value.message.splitlines():
        if "allowed:" in line:
            for key in line.partition("allowed: ")[2].rstrip(")").split(", "):
                assert f"{key} = " in bare or key in TABLES, key


TABLES = (
    "device", "coordinator", "origin", "trust", "network", "discovery", "slots", "boot", "health", "budgets",
    "swarm", "cost", "carrier",
)  # fmt: skip


def test_all_faults_are_told_at_once_with_line_and_key() -> None:
    text = SMALL.replace('"dev-1"', '"dev 1"').replace("https://", "ftp://") + '[swarm]\nsettle_s = "x"\n'
    found = faults(text)
    assert len(found) == 3
    assert found[0].startswith("line 2: device.id must be a name")
    assert found[0].endswith("not 'dev 1'")
    assert found[1].startswith("line 8: coordinator.url must be a URL")
    assert found[2].startswith("line 14: swarm.settle_s must be a number of 0..600")


def test_what_is_missing_is_named() -> None:
    assert faults("") == [
        "device is missing: the table [device] is needed",
        "device.state_dir is missing: a path",
        "device.id is missing: a name (letters, digits, '._+~-'; at most 128)",
        "device.product is missing: a name (letters, digits, '._+~-'; at most 128)",
        "device.hardware is missing: a name (letters, digits, '._+~-'; at most 128)",
        "coordinator is missing: the table [coordinator] is needed",
        "coordinator.url is missing: a URL such as https://updates.example.org",
        "slots is missing: the table [slots] is needed",
        "slots needs a table per payload, such as [slots.rootfs]",
    ]


CARRIES = "[swarm]\ncarrier = true\n[carrier]\nlearn = false\n"
RECOMPUTES = '[budgets]\nrecompute_memory = "512MiB"\n'


@pytest.mark.parametrize(
    ("addition", "fault"),
    [
        ("[devise]\nid = 1", "line 13: devise is unknown (allowed: boot, budgets, carrier, coordinator"),
        ("[health]\ncomand = []", "line 14: health.comand is unknown (allowed: command, timeout_s)"),
        ('[slots.boot]\na = "/x"\nb = "/x"', "line 15: slots.boot.b is the same place as a"),
        ('[slots.boot]\na = "/x"', "slots.boot.b is missing: a path"),
        ('[slots.boot]\na = "/x"\nb = "/dev/../dev/mmcblk0p2"',
         "line 15: slots.boot.b is the same place as slots.rootfs.a"),
        ('[slots.boot]\na = "/x.2"\nb = "/y"\n[boot]\nenvironment = "/x"',
         "line 14: slots.boot.a is the same place as boot.environment"),
        ('[slots."../x"]\na = "1"\nb = "2"', "is no payload name"),
        ('[network]\nlisten = "7470"', "line 14: network.listen must be HOST:PORT"),
        ('[network]\nlisten = "::1:7470"', "line 14: network.listen must be HOST:PORT"),
        ('[network]\nlisten = "h:65536"', "line 14: network.listen must be HOST:PORT"),
        ('[network]\nadvertise = "a b"', "line 14: network.advertise must be a host name"),
        ('[discovery]\nmdns = "yes"', "line 14: discovery.mdns must be true or false, not 'yes'"),
        ('[discovery]\npeers = ["10.0.0.1:0"]', "line 14: discovery.peers must be a list of 'HOST:PORT'"),
        ('[discovery]\nmdns_interfaces = ["eth0"]', "line 14: discovery.mdns_interfaces must be a list of"),
        ("[boot]\nattempts = 0", "line 14: boot.attempts must be a whole number of 1..100, not 0"),
        ("[boot]\nattempts = true", "line 14: boot.attempts must be a whole number of 1..100, not True"),
        ('[boot]\nreboot_command = "reboot"', "line 14: boot.reboot_command must be a program and"),
        ('[boot]\ndefault_slot = "c"', "line 14: boot.default_slot must be 'a' or 'b', not 'c'"),
        ('[budgets]\nwan_rate_max = "2MB"', "line 14: budgets.wan_rate_max must be bytes per second"),
        ('[budgets]\nwan_rate_max = 0', "line 14: budgets.wan_rate_max must be bytes per second"),
        ("[swarm]\nserve_s = -1", "line 14: swarm.serve_s must be a whole number of 0..31622400"),
        ("[budgets]\nconditions = 1", "line 14: budgets.conditions must be a path"),
        ("[budgets]\nwan_metered = 1", "line 14: budgets.wan_metered must be true or false"),
        ("[budgets]\nwan_roaming = 0", "line 14: budgets.wan_roaming must be true or false"),
        ('[budgets]\nsite_wan_rate_max = -1', "line 14: budgets.site_wan_rate_max must be bytes per second"),
        ('[budgets]\nwan_gives_way = "yes"', "line 14: budgets.wan_gives_way must be true or false"),
        ('[budgets]\nwan_windows = "22:00-05:00"', "line 14: budgets.wan_windows must be a list of daily"),
        ('[budgets]\nwan_windows = ["22-05"]', "line 14: budgets.wan_windows must be a list of daily"),
        ('[budgets]\nwan_windows = ["22:00-24:00"]', "line 14: budgets.wan_windows must be a list of daily"),
        ('[budgets]\nwan_windows = ["05:00-05:00"]', "line 14: budgets.wan_windows must be a list of daily"),
        ("[cost]\nlan_gb = -1", "line 14: cost.lan_gb must be what it is worth in bytes over the WAN"),
        ('[cost]\ncpu_hour = "much"', "line 14: cost.cpu_hour must be what it is worth in bytes over"),
        ("[cost]\nenergy_kwh = true", "line 14: cost.energy_kwh must be what it is worth in bytes over"),
        ("[cost]\nwan = 1", "line 14: cost.wan is unknown"),
        ("[budgets]\nsite_wan_month_max = 0", "line 14: budgets.site_wan_month_max must be bytes"),
        ("[budgets]\nwan_price_per_mb = -1", "line 14: budgets.wan_price_per_mb must be a number of 0..1"),
        ('[budgets]\nwan_price_per_mb = "4"', "line 14: budgets.wan_price_per_mb must be a number of 0..1"),
        ("[budgets]\nwan_month_max = 0", "line 14: budgets.wan_month_max must be bytes"),
        ('[budgets]\nwan_month_max = "2 GB/s"', "line 14: budgets.wan_month_max must be bytes"),
        ('[budgets]\ndisk_max = "1MiB"', "line 14: budgets.disk_max must be bytes (at least 16777216)"),
        ('[budgets]\npatch_memory = "512KiB"', "budgets.patch_memory must be bytes (at least 1048576)"),
        ("[budgets]\npatch_memory = 0", "line 14: budgets.patch_memory must be bytes"),
        ('[budgets]\npatch_memory = "much"', "absent for a sixteenth of the machine's memory"),
        ('[budgets]\ndisk_max = "much"', "line 14: budgets.disk_max must be bytes"),
        (RECOMPUTES + "recompute_cpu = 0", "recompute_cpu must be a number of 0.01..1 (sh"),
        (RECOMPUTES + "recompute_cpu = 1.5", "recompute_cpu must be a number of 0.01..1"),
        ("[budgets]\nrecompute_cpu = 0.5", "line 14: budgets.recompute_cpu bounds nothing without"),
        ('[budgets]\nrecompute_memory = "64MiB"', "line 14: budgets.recompute_memory is less than the 128"),
        ('[budgets]\ntime_zone = "Mars/Olympus"', "line 14: budgets.time_zone must be the name of a"),
        ('[budgets]\ntime_zone = "../../etc/passwd"', "line 14: budgets.time_zone must be the name of a"),
        ("[swarm]\ngateways_max = 4", "line 14: swarm.gateways_max must be a whole number of 1..3, not 4"),
        ("[swarm]\nstall_s = nan", "line 14: swarm.stall_s must be a number of 0.5..3600"),
        ('[carrier]\nquota = "1GB"', "line 14: carrier.quota is of no use without swarm.carrier = true"),
        (CARRIES, "carrier.quota is missing"),
        (CARRIES + 'quota = "1GB"\nproducts = ["a b"]', "carrier.products must be a list of at most 64"),
        (CARRIES + 'quota = "1GB"\nproducts = ["a", "a"]', "names (letters, digits, '._+~-'), each once"),
        (CARRIES + 'quota = "2GB"\n[budgets]\ndisk_max = "1GB"', "quota is more than budgets.disk_max"),
        ('[trust]\nbuild_time = "yesterday"', "line 14: trust.build_time must be a date and time"),
        ('[origin]\nca = "x.pem"', "line 14: origin.ca is of no use without origin.url"),
        ('[origin]\nurl = "http://u:p@h/"', "line 14: origin.url must be a URL"),
        ("swarm = 3", "slots.rootfs.swarm is unknown"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_with_what_is_allowed(addition: str, fault: str) -> None:
    found = faults(SMALL + addition + "\n")
    assert len(found) == 1, found
    assert fault in found[0]


@pytest.mark.parametrize(
    ("addition", "value"),
    [
        ('[network]\nlisten = "[::]:0"', ("network.listen", Endpoint("::", 0))),
        ('[network]\nlisten = "gw-1.site.example:80"', ("network.listen", Endpoint("gw-1.site.example", 80))),
        ('[budgets]\nwan_rate_max = "2MB/s"', ("budgets.wan_rate_max", 2_000_000)),
        ('[budgets]\nwan_rate_max = "16Mbit/s"', ("budgets.wan_rate_max", 2_000_000)),
        ('[budgets]\nlan_rate_max = "1.5 MiB/s"', ("budgets.lan_rate_max", 1_572_864)),
        ('[budgets]\nsite_wan_rate_max = "1MB/s"', ("budgets.site_wan_rate_max", 1_000_000)),
        ("[swarm]\nserve_s = 0", ("swarm.serve_s", 0)),
        ('[budgets]\nconditions = "now.toml"', ("budgets.conditions", HERE / "now.toml")),
        ("[budgets]\nwan_metered = true", ("budgets.wan_metered", True)),
        ("[budgets]\nwan_gives_way = true", ("budgets.wan_gives_way", True)),
        ("[budgets]\nlan_rate_max = 1000", ("budgets.lan_rate_max", 1000)),
        ('[cost]\nlan_gb = "10MB"', ("cost", Weights(lan_gb=1e7))),
        ("[cost]\ncpu_hour = 0.5\nenergy_kwh = 2", ("cost", Weights(cpu_hour=0.5, energy_kwh=2.0))),
        ("[cost]", ("cost", Weights(100.0, 3.7, 0.0))),
        ('[budgets]\nsite_wan_month_max = "2GB"', ("budgets.site_wan_month_max", 2_000_000_000)),
        ("[budgets]\nwan_price_per_mb = 4", ("budgets.price", 4_000_000)),
        ("[budgets]\nwan_price_per_mb = 0", ("budgets.price", 0)),
        ("[budgets]", ("budgets.price", None)),
        ('[budgets]\nwan_month_max = "2GB"', ("budgets.wan_month_max", 2_000_000_000)),
        (
            '[budgets]\nwan_windows = ["22:00-5:30", "12:00 - 13:00"]',
            ("budgets.wan_windows", (DailyWindow(79_200, 19_800), DailyWindow(43_200, 46_800))),
        ),
        ('[budgets]\nrecompute_memory = "512MiB"', ("budgets.recompute_memory", 512 << 20)),
        ("[budgets]", ("budgets.recompute_memory", None)),
        ('[budgets]\ndisk_max = "1GiB"', ("budgets.disk_max", 1 << 30)),
        ("[budgets]", ("budgets.disk_max", None)),
        ('[budgets]\npatch_memory = "64MiB"', ("budgets.patch_memory", 64 << 20)),
        ("[budgets]\npatch_memory = 1048576", ("budgets.patch_memory", 1 << 20)),
        ("[budgets]", ("budgets.patch_memory", None)),
        ("[budgets]", ("budgets.recompute_cpu", 1.0)),
        (RECOMPUTES + "recompute_cpu = 0.25", ("budgets.recompute_cpu", 0.25)),
        ('[budgets]\ntime_zone = "Europe/Berlin"', ("budgets.zone", ZoneInfo("Europe/Berlin"))),
        ("[budgets]", ("budgets.zone", UTC)),
        ('[discovery]\npeers = ["10.0.0.1:1"]', ("discovery.peers", (Endpoint("10.0.0.1", 1),))),
        ('[discovery]\nmdns_interfaces = ["127.0.0.1"]', ("discovery.mdns_interfaces", ("127.0.0.1",))),
        (
            '[boot]\nreboot_command = ["systemctl", "reboot"]',
            ("boot.reboot_command", ("systemctl", "reboot")),
        ),
        (CARRIES + 'quota = "2GiB"', ("carrier", CarrierConfig((), 2 << 30, learn=False))),
        (CARRIES + 'quota = 9\nproducts = ["a", "b"]', ("carrier.products", ("a", "b"))),
        ("", ("carrier", CarrierConfig())),
        ("[swarm]\nstall_s = 1", ("swarm.stall_s", 1.0)),
        ("[trust]\nbuild_time = 1970-01-02T00:00:00Z", ("trust.build_time", 86_400.0)),
        ("[trust]\nbuild_time = 1970-01-02", ("trust.build_time", 86_400.0)),
        ('[trust]\nfleet_ca = "ca.pem"', ("fleet_ca_path", HERE / "ca.pem")),
        ('[origin]\nurl = "http://cdn.example/x/"', ("origin.url", "http://cdn.example/x")),
    ],
)
def test_a_right_value_is_taken(addition: str, value: tuple[str, object]) -> None:
    found: object = parse(SMALL + addition + "\n")
    for name in value[0].split("."):
        found = getattr(found, name)
    assert found == value[1]


def test_relative_paths_start_where_the_file_is() -> None:
    assert parse(SMALL.replace('"/var/lib/slipstream"', '"state"')).device.state_dir == HERE / "state"


def test_endpoints_are_written_as_they_are_read() -> None:
    assert str(Endpoint("::1", 80)) == "[::1]:80"
    assert str(Endpoint("10.0.0.1", 80)) == "10.0.0.1:80"


def test_text_that_is_no_toml_is_told_with_its_line() -> None:
    with pytest.raises(ConfigError, match=r"not valid TOML.*line 2"):
        parse("[device]\nid = = 1\n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        parse_config(b"\xff", source="x", directory=HERE)
    with pytest.raises(ConfigError, match="not valid TOML"):
        parse("x = " + "[" * 100_000)
    with pytest.raises(ConfigError, match="over"):
        parse_config(b" " * (2 << 20), source="x", directory=HERE)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file") as caught:
        read_config(tmp_path / "agent.toml")
    assert "--config" in caught.value.next_step
