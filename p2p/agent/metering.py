"""Holds a device to its WAN allowance: counts what crosses, opens and closes its WAN, also over restarts.

What is allowed is for `p2p.swarm.allowance` to say. The count is made durable a step ahead of what was
used, so that a device that is switched off at any moment has never used more than it remembers. Between two
looks a link may carry more than is left of a quota: at most `LOOK_S` of its rate. Files are written in a
thread, before what was kept is used up: on a slow medium the event loop does not wait for them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, tzinfo
from functools import partial
from typing import Any

import trio

from p2p.config import AgentConfig
from p2p.content import limits
from p2p.content.fields import dump_object, load_object
from p2p.errors import ContentError, StoreError
from p2p.ports import BlobStore
from p2p.swarm.allowance import Closed, Usage, Verdict, WanAllowance
from p2p.swarm.site_quota import SiteQuota

log = logging.getLogger(__name__)

LOOK_S, REST_S = 1.0, 60.0
"""How often is looked while bytes move, and while no images do (polls are few, and the clock may be set)."""

AHEAD_MAX = 1 << 20
"""The count that is kept is at most so many bytes ahead of what was used; less where a quota is small."""

LEFT_PART = 4
"""It is kept anew once less than one part in so many of that is left: writing takes its time."""

NAME, SITE_NAME = "wan-usage", "site-usage"
DOCUMENT, SITE_DOCUMENT = "slipstream-wan-usage", "slipstream-site-usage"
VERSION = 1
_SIZE_MAX, _SITE_SIZE_MAX = 4096, 512 << 10
_COUNT_MAX = 1 << 60


class WanMeter:
    """`crossed` gives the bytes that this process has moved over its WAN, both ways; `now` the local time.

    `changed(open)` is called when the WAN opens or closes for frames; `told` gets what the site is to hear.
    """

    def __init__(
        self,
        allowance: WanAllowance,
        store: BlobStore,
        crossed: Callable[[], int],
        now: Callable[[], datetime],
        changed: Callable[[bool], None],
        told: Callable[[Usage], None] = lambda usage: None,
    ) -> None:
        self._allowance = allowance
        self._store = store
        self._crossed = crossed
        self._now = now
        self._changed = changed
        self._seen = 0
        self._tell = told
        self._told: Usage | None = None
        self._kept: Usage | None = None
        self._due: Usage | None = None
        """What is to be made durable."""
        self._kept_version = 0
        self._unkept: set[str] = set()
        """What could not be kept the last time."""
        if (site := allowance.site) is not None:
            self._kept_version = site.version
            usage = allowance.usage(now())
            site.used(usage.number, usage.size)
        self._woken = trio.Event()
        self.verdict: Verdict = allowance.verdict(now())

    @property
    def open(self) -> bool:
        """Whether frames may be fetched now, as of the last look."""
        return self.verdict.closed is None

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                self._woken = trio.Event()
                resting = not self.look()
                await self.save()
                with trio.move_on_after(self._pause(resting=resting)):
                    await (self._woken.wait() if resting else trio.sleep_forever())
        finally:
            self.look()
            self._due = self._allowance.usage(self._now())
            with trio.CancelScope(shield=True):
                await self.save()

    def roam(self, roaming: bool) -> None:
        """The device is in another's network, or at home again; acts at once."""
        self._allowance.roaming = roaming
        self.look()
        self._woken.set()

    def wake(self) -> None:
        """Bytes cross from now on, so look soon."""
        self._woken.set()

    def look(self) -> bool:
        """Count what crossed since the last look and act on it; whether anything did. Writes nothing."""
        now, crossed = self._now(), self._crossed()
        moved, self._seen = crossed - self._seen, crossed
        usage = self._allowance.spend(moved, now)
        kept, ahead = self._kept, self._ahead
        if kept is None or kept.month != usage.month or usage.size > kept.size - ahead // LEFT_PART:
            self._due = Usage(usage.month, usage.size + ahead)
        if self._allowance.site is not None:
            self._share(self._allowance.site, usage)
        before, self.verdict = self.verdict, self._allowance.verdict(now)
        if before.closed != self.verdict.closed:
            log.info("the WAN is %s", self.explain())
            if (before.closed is None) is not self.open:
                self._changed(self.open)
        return moved > 0

    async def save(self) -> None:
        """Make durable what looks found to be due; what fails is due again with the next look."""
        usage, self._due = self._due, None
        if usage is not None and await self._keep(NAME, _encode(usage), "the month's WAN bytes"):
            self._kept = usage
        site = self._allowance.site
        if site is not None and site.version != self._kept_version:
            version, value = site.version, _encode_site(site)
            if await self._keep(SITE_NAME, value, "the month's WAN bytes of the site's other devices"):
                self._kept_version = version

    def facts(self) -> dict[str, Any]:
        """For the status file."""
        usage = self._allowance.usage(self._now())
        site, used = self._allowance.site, usage.size + self._crossed() - self._seen
        others = {} if site is None else {"site_used": site.site - site.own + used, "site_max": site.most}
        return others | {
            "open": self.open,
            "closed_by": self.verdict.closed,
            "until": None if self.verdict.until is None else self.verdict.until.isoformat(timespec="minutes"),
            "month": usage.month,
            "month_used": used,
            "month_max": self._allowance.month_max,
        }

    def explain(self) -> str:
        """Open or closed, why and until when, for people."""
        until = (
            "" if self.verdict.until is None else f" until {self.verdict.until:%Y-%m-%d %H:%M %Z}".rstrip()
        )
        match self.verdict.closed:
            case Closed.WINDOW:
                return f"closed for updates by budgets.wan_windows{until}"
            case Closed.QUOTA:
                return f"closed for updates{until}: the quota of budgets.wan_month_max is used up"
            case Closed.SITE_QUOTA:
                quota = "the quota of budgets.site_wan_month_max"
                return f"closed for updates{until}: what {quota} leaves this device is used up"
            case Closed.ROAMING:
                return "closed for updates while the device roams (budgets.wan_roaming)"
            case _:
                return f"open for updates{until}"

    # Inside

    @property
    def _ahead(self) -> int:
        most = self._allowance.month_max
        return AHEAD_MAX if most is None else min(AHEAD_MAX, most // 64)

    def _share(self, site: SiteQuota, usage: Usage) -> None:
        """Have the site hear what this device has used."""
        told = self._told
        if told is None or told.month != usage.month or usage.size >= told.size + site.step:
            self._told = usage
            self._tell(usage)

    def _pause(self, *, resting: bool) -> float:
        longest = REST_S if resting else LOOK_S
        until = self.verdict.until
        if until is None:
            return longest
        return min(longest, max(0.0, (until - self._now()).total_seconds()) + 0.01)

    async def _keep(self, name: str, value: bytes, what: str) -> bool:
        """Whether a value is durable. That it is not is told once, and once more when it is again."""
        try:
            await trio.to_thread.run_sync(self._store.write, name, value)
        except StoreError as error:
            if name not in self._unkept:
                log.warning("%s are not kept: %s (it is tried again)", what, error.message)
            self._unkept.add(name)
            return False
        if name in self._unkept:
            log.info("%s are kept again", what)
            self._unkept.remove(name)
        return True


def meter_of(
    config: AgentConfig,
    store: BlobStore,
    crossed: Callable[[], int],
    now: Callable[[], float],
    changed: Callable[[bool], None],
    *,
    roaming: bool = False,
    site: SiteQuota | None = None,
    told: Callable[[Usage], None] = lambda usage: None,
) -> WanMeter | None:
    """The meter of a device; None where nothing is to be kept to. `now`: trusted time, seconds since 1970.

    `roaming`: it roams just now. `site`: the quota of its site, filled with what an earlier run knew.
    """
    budgets = config.budgets
    bounded = budgets.wan_month_max is not None or budgets.wan_windows or site is not None
    may_roam = budgets.conditions is not None and not budgets.wan_roaming
    if not config.swarm.wan or not (bounded or may_roam):
        return None
    if site is not None:
        restore_site(site, store)
    allowance = WanAllowance(budgets.wan_windows, budgets.wan_month_max, kept_usage(store), site)
    allowance.roaming = roaming and not budgets.wan_roaming
    clock = partial(_local, now, budgets.zone)
    return WanMeter(allowance, store, crossed, clock, changed, told)


def _local(now: Callable[[], float], zone: tzinfo) -> datetime:
    return datetime.fromtimestamp(now(), zone)


def kept_usage(store: BlobStore) -> Usage | None:
    """What an earlier run counted; a count that cannot be read is none, and is told."""
    try:
        data = store.read(NAME)
        return None if data is None else _decode(data)
    except (StoreError, ContentError) as error:
        log.warning("the month's WAN bytes are counted anew: %s", error)
        return None


def restore_site(site: SiteQuota, store: BlobStore) -> None:
    """Fill a site's quota with what an earlier run heard; what cannot be read is told, and heard anew."""
    try:
        data = store.read(SITE_NAME)
        if data is not None:
            site.restore(*_decode_site(data))
    except (StoreError, ContentError) as error:
        log.warning("the month's WAN bytes of the site's other devices are heard anew: %s", error)


def _encode_site(site: SiteQuota) -> bytes:
    used = [{"device": device, "size": size, "met": met} for device, size, met in site.entries()]
    return dump_object({"_type": SITE_DOCUMENT, "spec": VERSION, "month": site.month, "used": used})


def _decode_site(data: bytes) -> tuple[int, list[tuple[str, int, bool]]]:
    fields = load_object(data, "site usage", _SITE_SIZE_MAX)
    fields.constant("_type", SITE_DOCUMENT)
    fields.constant("spec", VERSION)
    month = fields.integer("month", 0, limits.MONTH_MAX)
    used = []
    for entry in fields.objects("used", length_max=2 * limits.UPLINKS_MAX):
        used.append((entry.name("device"), entry.integer("size", 0, _COUNT_MAX), entry.boolean("met")))
        entry.finish()
    fields.finish()
    return month, used


def _encode(usage: Usage) -> bytes:
    return dump_object({"_type": DOCUMENT, "spec": VERSION, "month": usage.month, "size": usage.size})


def _decode(data: bytes) -> Usage:
    fields = load_object(data, "wan usage", _SIZE_MAX)
    fields.constant("_type", DOCUMENT)
    fields.constant("spec", VERSION)
    usage = Usage(fields.text("month", length_max=7), fields.integer("size", 0, _COUNT_MAX))
    try:
        datetime.strptime(usage.month, "%Y-%m")
    except ValueError:
        raise ContentError(f"wan usage.month: {usage.month!r} is no month") from None
    fields.finish()
    return usage
