"""The halt rule: stop a release that makes its devices go silent, and no other.

**The question.** A device is told to update, reboots, and is not heard from. Was it the release? Devices fall silent
all day: people switch them off, a carrier has an outage, a van drives into a tunnel. One silent device says little,
and a rule such as "halt at 2 % offline" halts good releases on bad days and lets bad ones through on good days.

**Compare, never threshold.** For each updated device the rule picks others that could just as well have been updated
at that minute and were not: its *shadows*. They are in the same region, as steady as it is, and online. Then it waits
and asks of all of them the same question: *have you been heard from since?* Night, tunnels and outages take as many of
the shadows as of the updated devices. Only the release takes updated devices alone.

**Why the comparison is fair.** Who is updated first is decided by a device's height, a hash of its name and the
campaign's. A hash knows nothing of hardware, place or age, so the updated devices are a random sample of their region,
as if lots had been drawn. Were they chosen site by site or by a list of names, the two groups would differ from the
start and the comparison would be worth nothing; devices named as canaries are for that reason not compared at all.

**Why a bet.** Looking at the numbers every minute and halting when they seem significant finds "significance" in any
release, if one looks often enough. So the rule bets instead. It begins with one coin and stakes parts of it on
"updated devices go silent more often than 1.25 times their shadows do, plus 0.1 %". The odds are such that, if the
release is harmless, no way of betting wins on average. Having 100 coins then needs luck of 1 in 100, *whenever one
looks*: an old theorem (Ville 1939), and the only one needed. With a bad release the coins multiply by themselves. 10
coins pull the brake: nothing new starts until all devices on their way are judged. 100 coins halt.

The coin is split before the first bet. Parts are staked on silence soon after the reboot (``g1``) and two hours later
(``g2``), on devices that vanish while they download (``stall``), that come back and go dark later (``stay``), or that
lose their connection again and again (``flap``); and in each of these on the whole fleet, on each hardware class and
on each region. A release that bricks one revision makes that part grow until it carries the sum. As everything began
as one coin, no correction for so many questions is needed.

**Pace.** The bet needs some silent devices to win. How many that costs is decided by how many are on their way at
once: a few at first, about three times as many for each quarter of an hour that went well (`pace`). Silent devices
keep their slot, so a release that bricks everything runs out of slots by itself.

**Weather.** When silence is everywhere it says nothing. The top twentieth of each region, the *sentinels*, is updated
last and never compared; if suddenly many more of them are dark than usual, nothing is judged there until some time
after (`weather`). The same holds everywhere while we cannot see: our own link was down, or we were late ourselves.

**Sleep.** Devices that declare that they sleep are compared with others that do, and asked whether they have woken
again by their third wake (`trials`); they watch no weather, and have a room and a channel (``wake``) of their own.

**Guard rails.** Where nothing is left to compare with (the end of a campaign, a fleet of thirty, named canaries),
plain counts and the devices' own reports decide (`rails`, `late`), with less authority where they rest on less.

**What it cannot see.** A release that does harm without silence, unless devices report it. Harm below a quarter more
than usual plus one in a thousand. Harm to very few devices of a small subgroup, for a long time. A device asleep by
design, until it should have woken three times. A release that brings down its neighbours too, shadows included,
looks like bad weather: only the pattern in which just the regions being updated go bad gives it away
(``is_storm_ours``).

Modules: `bet` (one block's odds), `wealth` (the coins), `rates` (placing bets), `ledger` (open questions), `shadows`
and `trials` (who is compared with whom), `windows` (later trouble), `weather`, `pace`, `rails`, `late`, `brake`,
`sentence` (the reason in words), `state` (surviving a restart), `rule` (all of it in order).
"""

from server.domain.halt.pace import level_within
from server.domain.halt.policy import HaltPolicy
from server.domain.halt.rule import HaltRule
from server.domain.halt.view import Call, Moment, Population, Verdict

__all__ = ["Call", "HaltPolicy", "HaltRule", "Moment", "Population", "Verdict", "level_within"]
